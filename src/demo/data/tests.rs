use std::collections::BTreeMap;

use super::*;
use crate::cli::time::format_ns;

const HEADER: &str = "Wind_turbine_name,Date_time,Ba_avg,P_avg,Ws_avg,Va_avg,Ot_avg,Ya_avg,Wa_avg";

fn one(row: &str) -> Result<Vec<Row<'static>>, DataError> {
    parse(Box::leak(format!("{HEADER}\n{row}\n").into_boxed_str()))
}

#[test]
fn the_day_is_whole() {
    let rows = parse(LA_HAUTE_BORNE).unwrap();
    assert_eq!(rows.len(), 576);
    let mut turbines = BTreeMap::<_, usize>::new();
    for row in &rows {
        *turbines.entry(row.turbine).or_default() += 1;
    }
    assert_eq!(turbines, BTreeMap::from(["R80711", "R80721", "R80736", "R80790"].map(|turbine| (turbine, 144))));
    assert!(rows.is_sorted_by_key(|row| (row.source_time_ns, row.turbine)));
    assert_eq!(format_ns(rows[0].source_time_ns), "2015-03-31T00:00:00Z");
    assert_eq!(format_ns(rows[575].source_time_ns), "2015-03-31T23:50:00Z");
}

#[test]
fn the_trip_is_there() {
    let rows = parse(LA_HAUTE_BORNE).unwrap();
    let at = parse_ns("2015-03-31T01:40:00Z").unwrap();
    let now: Vec<_> = rows.iter().filter(|row| row.source_time_ns == at).collect();
    assert_eq!(now.len(), 4);
    for row in now {
        let measured: BTreeMap<_, _> = row.measured().map(|(column, value)| (column.property, value)).collect();
        if row.turbine == "R80790" {
            assert_eq!((measured["power"], measured["pitch"]), (-4.760_000_2, 88.32));
            assert_eq!(measured["wind_speed"], 16.290_001);
        } else {
            assert!(measured["power"] > 1_900.0, "{row:?}");
        }
    }
}

#[test]
fn every_cell_is_written_back_as_it_was() {
    let lines: Vec<_> = LA_HAUTE_BORNE.lines().collect();
    for row in parse(LA_HAUTE_BORNE).unwrap() {
        let cells: Vec<_> = lines[row.line - 1].split(',').collect();
        assert_eq!(cells[0], row.turbine);
        assert_eq!(parse_ns(cells[1]), Ok(row.source_time_ns));
        assert_eq!(cells[2..], row.values.map(cell_text));
    }
}

#[test]
fn an_empty_cell_is_no_value() {
    let rows = one("R1,2015-03-31T02:00:00+02:00,,1.5,,,,,").unwrap();
    assert_eq!(rows[0].values, [None, Some(1.5), None, None, None, None, None]);
    assert_eq!(rows[0].measured().map(|(column, _)| column.property).collect::<Vec<_>>(), ["power"]);
}

#[test]
fn rows_are_put_in_the_order_of_time_across_offsets() {
    let rows = one("R2,2015-03-31T02:00:00+02:00,,,,,,,\nR1,2015-03-31T00:30:00+01:00,,,,,,,").unwrap();
    assert_eq!(rows.iter().map(|row| row.turbine).collect::<Vec<_>>(), ["R1", "R2"]);
}

#[test]
fn faults_name_their_line() {
    assert_eq!(parse("").unwrap_err(), DataError::Header);
    assert_eq!(parse(&HEADER.replace("P_avg", "Q_avg")).unwrap_err(), DataError::Header);
    let good = "R1,2015-03-31T02:00:00+02:00,1,2,3,4,5,6,7";
    let number = |column| DataError::Number { line: 2, column };
    for (bad, error) in [
        ("", DataError::Cells { line: 2, found: 1 }),
        ("R1,2015-03-31T02:00:00+02:00,1,2,3,4,5,6", DataError::Cells { line: 2, found: 8 }),
        ("R1,2015-03-31T02:00:00+02:00,1,2,3,4,5,6,7,8", DataError::Cells { line: 2, found: 10 }),
        ("R/1,2015-03-31T02:00:00+02:00,1,2,3,4,5,6,7", DataError::Turbine { line: 2 }),
        ("R1,2015-03-31T02:00:00+02:00,x,2,3,4,5,6,7", number("Ba_avg")),
        ("R1,2015-03-31T02:00:00+02:00,1,2,NaN,4,5,6,7", number("Ws_avg")),
        ("R1,2015-03-31T02:00:00+02:00,1,2,3,4,5,6,1e999", number("Wa_avg")),
    ] {
        assert_eq!(one(bad), Err(error), "{bad}");
    }
    assert!(matches!(one(&good.replace("+02:00", "")), Err(DataError::Time { line: 2, .. })));
    let again = good.replace("02:00:00+02:00", "00:00:00Z");
    assert_eq!(one(&format!("{good}\n{again}")), Err(DataError::Duplicate { line: 3, earlier: 2 }));
}

#[test]
fn a_file_has_a_limit() {
    let text = format!("{HEADER}\n{}", "R1,2015-03-31T00:00:00Z,,,,,,,\n".repeat(MAX_ROWS + 1));
    assert_eq!(parse(&text).unwrap_err(), DataError::TooLong);
}
