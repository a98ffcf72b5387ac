//! `atlas set`, `atlas delete`, `atlas txn`: one operation each, signed, ordered, executed.

use std::io;
use std::path::Path;

use atlas_dataplane::types::Code;

use super::args::{Connection, DeleteArgs, Format, SetArgs, TxnArgs, set_properties};
use super::error::CliError;
use super::output::{Style, WriteResult, WrittenChange, agreed_time, json_line, printable};
use super::parse;
use super::proofs::keep_receipt;
use super::session::Session;
use crate::client::RequestResult;
use crate::twin::operation::{Operation, Write};
use crate::twin::view::{OperationView, Target};
use atlas_dataplane::cbor::{CborError, Reader};

/// `atlas set`.
///
/// # Errors
/// As [`super::error`] has them; a refusal names its code.
pub fn set(args: &SetArgs, out: &mut impl io::Write, style: Style) -> Result<(), CliError> {
    let (twin, reason) = (args.twin.clone(), args.reason.clone());
    let properties = set_properties(args.properties.clone(), args.quality, args.source_time);
    let operation = Operation::Write(Write::Set { twin, properties, reason });
    execute(&operation, &args.connection, args.receipt.as_deref(), args.format, out, style)
}

/// `atlas delete`.
///
/// # Errors
/// As [`set`].
pub fn delete(args: &DeleteArgs, out: &mut impl io::Write, style: Style) -> Result<(), CliError> {
    let (twin, reason) = (args.twin.clone(), args.reason.clone());
    let paths = Some(args.paths.clone()).filter(|paths| !paths.is_empty());
    let operation = Operation::Write(Write::Delete { twin, paths, reason });
    execute(&operation, &args.connection, args.receipt.as_deref(), args.format, out, style)
}

/// `atlas txn`.
///
/// # Errors
/// As [`set`].
pub fn txn(args: &TxnArgs, out: &mut impl io::Write, style: Style) -> Result<(), CliError> {
    let (conditions, writes, reason) = (args.conditions.clone(), args.writes.0.clone(), args.reason.clone());
    let operation = Operation::Transaction { conditions, writes, reason };
    execute(&operation, &args.connection, args.receipt.as_deref(), args.format, out, style)
}

fn execute(
    operation: &Operation,
    connection: &Connection,
    receipt: Option<&Path>,
    format: Format,
    out: &mut impl io::Write,
    style: Style,
) -> Result<(), CliError> {
    let bytes = parse::encode(operation)?;
    let mut session = Session::open(connection)?;
    let result = session.submit(bytes.clone())?;
    let shown = show(&bytes, &result)?;
    // A refused operation stands in the history too.
    if let Some(file) = receipt {
        keep_receipt(&mut session, result.position, &bytes, file)?;
    }
    if format.json {
        json_line(out, &shown)?;
    } else if result.code == Code::DONE {
        shown.print(out, style)?;
    }
    if result.code == Code::DONE {
        Ok(())
    } else {
        let detail = format!("{} (position {})", printable(&result.detail), result.position);
        Err(CliError::Refused { code: result.code, detail: detail.trim_start().to_owned() })
    }
}

/// The result with the names of what changed.
fn show(operation: &[u8], result: &RequestResult) -> Result<WriteResult, CliError> {
    let unreadable = |error: CborError| CliError::failed("the replicas' reply is not what this version knows", error);
    let targets = OperationView::decode(operation).map(|view| view.targets).unwrap_or_default();
    Ok(WriteResult {
        position: result.position.to_string(),
        sequence: result.sequence,
        agreed_time: agreed_time(result.time_ms),
        code: result.code.0,
        text: result.code.text(),
        detail: result.detail.clone(),
        changes: changes(&result.changes, &targets).map_err(unreadable)?,
    })
}

/// Reads `[[path, revision, previous / null] ...]`; the path is the number of a target, or stands for a property that was
/// deleted with its whole twin and that the reply does not name.
fn changes(bytes: &[u8], targets: &[Target<'_>]) -> Result<Vec<WrittenChange>, CborError> {
    let reader = &mut Reader::new(bytes);
    let mut changes = Vec::new();
    for _ in 0..reader.array()? {
        reader.array_of(3)?;
        let number = reader.uint()?;
        let target = usize::try_from(number).ok().and_then(|number| targets.get(number));
        changes.push(WrittenChange {
            twin: target.map(|target| target.twin.to_owned()),
            property: target.and_then(Target::path).map(str::to_owned),
            revision: reader.uint()?,
            previous: reader.optional(Reader::uint)?,
        });
    }
    reader.finish()?;
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use atlas_dataplane::cbor::Writer;
    use atlas_dataplane::types::Position;

    #[test]
    fn changes_get_the_names_that_the_operation_gave_them() {
        let operation = Operation::Transaction {
            conditions: Vec::new(),
            writes: vec![
                Write::Delete {
                    twin: "p/a".to_owned(),
                    paths: Some(vec!["x".to_owned(), "y".to_owned()]),
                    reason: None,
                },
                Write::Delete { twin: "p/b".to_owned(), paths: None, reason: None },
            ],
            reason: None,
        };
        let mut changes = Vec::new();
        let out = &mut Writer(&mut changes);
        out.array(3).array(3).uint(0).uint(5).null().array(3).uint(1).uint(7).uint(9);
        out.array(3).uint(1000).uint(2).uint(1);
        let position = Position { entry: 3, request: 1 };
        let (sequence, time_ms, code, detail) = (2, 0, Code::DONE, String::new());
        let result = RequestResult { operation: 0, position, sequence, time_ms, code, changes, detail };
        let shown = show(&operation.encode(), &result).unwrap();
        let named: Vec<_> = shown
            .changes
            .iter()
            .map(|change| (change.twin.as_deref(), change.property.as_deref(), change.revision, change.previous))
            .collect();
        assert_eq!(
            named,
            [(Some("p/a"), Some("x"), 5, None), (Some("p/a"), Some("y"), 7, Some(9)), (None, None, 2, Some(1))]
        );
        let garbled = RequestResult { changes: vec![0x81], ..result };
        assert!(matches!(show(&operation.encode(), &garbled), Err(CliError::Failed(_))));
    }
}
