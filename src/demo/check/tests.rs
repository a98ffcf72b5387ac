use atlas_dataplane::types::Position;

use super::*;
use crate::demo::data::{LA_HAUTE_BORNE, parse};
use crate::demo::plan::{measured_properties, twin};

const GATEWAY: PublicKey = PublicKey([7; 32]);

/// The history of a property as a faithful store would give it, newest first.
fn history(rows: &[Row<'_>], turbine: &str, property: &'static str) -> Vec<ChangeSet> {
    let mut sets = Vec::new();
    for (index, row) in rows.iter().filter(|row| row.turbine == turbine).enumerate() {
        let Some((_, value)) = row.measured().find(|(column, _)| column.property == property) else { continue };
        let change = PropertyChange {
            twin: twin(turbine),
            property: property.to_owned(),
            value: Some(Value::F64(value)),
            quality: Quality::Good,
            source_time_ns: Some(row.source_time_ns),
            revision: sets.len() as u64 + 1,
        };
        let position = Position { entry: index as u64 + 1, request: 0 };
        sets.push(ChangeSet { position, time_ms: 0, origin: GATEWAY, reason: None, changes: vec![change] });
    }
    sets.reverse();
    sets
}

/// Reads a file back through histories that `edit` may falsify.
fn read_back(file: &str, edit: impl Fn(&str, &str, &mut Vec<ChangeSet>)) -> Result<Compared, Mismatch> {
    let rows = parse(file).unwrap();
    let mut book = Book::new(GATEWAY);
    for (turbine, property) in measured_properties(&rows) {
        let mut sets = history(&rows, &turbine, property);
        edit(&turbine, property, &mut sets);
        book.add(&turbine, property, &sets)?;
    }
    book.compare(file, &rows)
}

#[test]
fn the_day_read_back_is_the_file() {
    assert_eq!(read_back(LA_HAUTE_BORNE, |_, _, _| {}), Ok(Compared { rows: 576, cells: 4_032 }));
}

#[test]
fn missing_cells_stay_missing() {
    let file = "Wind_turbine_name,Date_time,Ba_avg,P_avg,Ws_avg,Va_avg,Ot_avg,Ya_avg,Wa_avg\n\
        R1,2015-03-31T02:00:00+02:00,,1.5,,,,,\nR1,2015-03-31T02:10:00+02:00,3.0,,,,,,0.1\n";
    assert_eq!(read_back(file, |_, _, _| {}), Ok(Compared { rows: 2, cells: 14 }));
    let filled = read_back(file, |_, property, sets| {
        if property == "pitch" {
            sets[0].changes[0].source_time_ns = Some(1_427_760_000_000_000_000);
        }
    });
    assert!(matches!(filled, Err(Mismatch::Differs { line: 2, .. })), "{filled:?}");
}

/// Falsifies the last change of one property; what is said of it.
fn falsified(edit: impl Fn(&mut ChangeSet)) -> Result<Compared, Mismatch> {
    read_back(LA_HAUTE_BORNE, |turbine, property, sets| {
        if (turbine, property) == ("R80736", "power") {
            edit(&mut sets[0]);
        }
    })
}

#[test]
fn every_falsification_is_found() {
    let differs = falsified(|set| set.changes[0].value = Some(Value::F64(0.1)));
    assert!(matches!(differs, Err(Mismatch::Differs { .. })), "{differs:?}");
    let unexpected = falsified(|set| set.changes[0].source_time_ns = Some(i64::MAX));
    // The row that has lost its value is found first.
    assert!(matches!(unexpected, Err(Mismatch::Differs { .. })), "{unexpected:?}");
    let what = |result: Result<Compared, Mismatch>| match result {
        Err(Mismatch::Foreign { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(what(falsified(|set| set.origin = PublicKey([8; 32]))), "not signed by the gateway");
    assert_eq!(what(falsified(|set| set.changes[0].quality = Quality::Bad)), "not of good quality");
    assert_eq!(what(falsified(|set| set.changes[0].value = None)), "not a float");
    assert_eq!(what(falsified(|set| set.changes[0].value = Some(Value::I64(5)))), "not a float");
    assert_eq!(what(falsified(|set| set.changes[0].revision += 1)), "a revision is missing");
    assert_eq!(what(falsified(|set| set.changes[0].source_time_ns = None)), "no source time");
    assert_eq!(what(falsified(|set| set.changes[0].source_time_ns = Some(0))), "source times do not rise");
    assert_eq!(what(falsified(|set| set.changes[0].twin.push('x'))), "not the property that was asked for");
}

#[test]
fn lost_doubled_and_additional_values_are_found() {
    let power = |turbine: &str, property: &str| (turbine, property) == ("R80711", "power");
    let lost = read_back(LA_HAUTE_BORNE, |turbine, property, sets| {
        if power(turbine, property) {
            sets.remove(0);
        }
    });
    assert!(matches!(lost, Err(Mismatch::Differs { .. })), "{lost:?}");
    let doubled = read_back(LA_HAUTE_BORNE, |turbine, property, sets| {
        if power(turbine, property) {
            sets.insert(0, sets[0].clone());
        }
    });
    assert!(matches!(doubled, Err(Mismatch::Foreign { .. })), "{doubled:?}");
    let added = read_back(LA_HAUTE_BORNE, |turbine, property, sets| {
        if power(turbine, property) {
            let mut more = sets[0].clone();
            more.changes[0].revision += 1;
            more.changes[0].source_time_ns = Some(i64::MAX);
            sets.insert(0, more);
        }
    });
    assert!(matches!(added, Err(Mismatch::Unexpected { .. })), "{added:?}");
}
