//! Pages of changes of the twin store as a subscription takes them: one event for each operation.
//!
//! An event's bytes are an answer to the query `changes` that holds the change sets of this one operation, so they are equal
//! on all replicas and read by [`Changes::decode`].

use atlas_dataplane::client::{Page, PageDecoder};
use atlas_dataplane::types::Position;

use crate::twin::query::{ChangeSet, Changes, MAX_PAGE, Query};
use atlas_dataplane::cbor::{CborError, Reader, Writer};
use atlas_dataplane::wire::limits::MAX_OPERATION_DEPTH;

/// Follows the twins whose names begin with a prefix.
#[derive(Clone, Debug)]
pub struct TwinChanges {
    /// What the names begin with; empty for all twins.
    pub prefix: String,
}

impl PageDecoder for TwinChanges {
    fn query(&self, behind: Position) -> Vec<u8> {
        Query::Changes { prefix: self.prefix.clone(), from: behind, to: None, limit: MAX_PAGE as u64 }.encode()
    }

    fn decode(&self, body: &[u8]) -> Option<Page> {
        // All of it is checked here, so that a malformed page is held against its sender and not found out later.
        Changes::decode(body).ok()?;
        page(body).ok()
    }
}

/// Reads an event.
///
/// # Errors
/// The bytes are not those of an event that [`TwinChanges`] has made.
pub fn decode(event: &[u8]) -> Result<Vec<ChangeSet>, CborError> {
    Changes::decode(event).map(|changes| changes.sets)
}

fn page(body: &[u8]) -> Result<Page, CborError> {
    let reader = &mut Reader::new(body);
    reader.array_of(2)?;
    // The sets of one operation follow each other: position, number of sets, their bytes.
    let mut operations: Vec<(Position, usize, Vec<u8>)> = Vec::new();
    for _ in 0..reader.array()? {
        let set = reader.item(MAX_OPERATION_DEPTH)?;
        let mut head = Reader::new(set);
        head.array_of(6)?;
        let position = Position { entry: head.uint()?, request: head.narrow()? };
        match operations.last_mut() {
            Some((last, count, bytes)) if *last == position => {
                *count += 1;
                bytes.extend_from_slice(set);
            }
            _ => operations.push((position, 1, set.to_vec())),
        }
    }
    reader.array_of(2)?;
    let covered = Position { entry: reader.uint()?, request: reader.narrow()? };
    let events = operations.into_iter().map(|(position, count, sets)| (position, event(position, count, &sets)));
    Ok(Page { events: events.collect(), covered })
}

fn event(position: Position, count: usize, sets: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(sets.len() + 32);
    Writer(&mut bytes).array(2).array(count);
    bytes.extend_from_slice(sets);
    Writer(&mut bytes).array(2).uint(position.entry).uint(u64::from(position.request));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page of the sets at these positions, each with one deleted property.
    fn body(positions: &[(u64, u64)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let out = &mut Writer(&mut bytes);
        out.array(2).array(positions.len());
        for (entry, request) in positions {
            out.array(6).uint(*entry).uint(*request).int(5).bytes(&[1; 32]).null().array(1);
            out.array(6).text("p/t").text("x").undefined().uint(0).null().uint(2);
        }
        out.array(2).uint(9).uint(65_535);
        bytes
    }

    #[test]
    fn the_sets_of_one_operation_make_one_event() {
        let decoder = TwinChanges { prefix: "p/".to_owned() };
        let page = decoder.decode(&body(&[(3, 0), (3, 1), (3, 1), (7, 0)])).unwrap();
        assert_eq!(page.covered, Position { entry: 9, request: 65_535 });
        let found: Vec<_> = page
            .events
            .iter()
            .map(|(position, event)| (position.to_string(), decode(event).unwrap()))
            .map(|(position, sets)| (position, sets.iter().map(|set| set.position.to_string()).collect::<Vec<_>>()))
            .collect();
        let expected = [("3.0", vec!["3.0"]), ("3.1", vec!["3.1", "3.1"]), ("7.0", vec!["7.0"])];
        assert_eq!(found.len(), 3);
        for ((position, sets), (expected_position, expected_sets)) in found.iter().zip(&expected) {
            assert_eq!((position.as_str(), sets.len()), (*expected_position, expected_sets.len()));
            assert_eq!(sets, expected_sets);
        }
    }

    #[test]
    fn a_malformed_page_is_none() {
        let whole = body(&[(3, 0), (4, 0)]);
        let decoder = TwinChanges { prefix: String::new() };
        assert!(decoder.decode(&whole).is_some());
        assert!((0..whole.len()).all(|end| decoder.decode(&whole[..end]).is_none()));
        assert!(decoder.decode(&[whole.as_slice(), &[0]].concat()).is_none());
    }
}
