//! The application of simulations: a few registers, and a record of what was executed for the checker.

use std::collections::BTreeMap;
use std::io;

use crate::crypto::hash::sha256;
use crate::state::{Answer, Application, Change, Entries, Frozen, OperationContext, Outcome, StateError};
use crate::types::{Code, Digest, EntryIndex, Position, PublicKey};

/// A write to one register. Every operation of a run is different, so executing one twice shows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Operation {
    pub(super) client: u32,
    pub(super) session: u64,
    pub(super) number: u64,
    /// Tells apart what a lying client signs under one number.
    pub(super) variant: u8,
    pub(super) register: u8,
    /// The revision that the register must have; `u64::MAX`: any.
    pub(super) revision: u64,
    /// Zeros behind all that, so that histories and logs grow.
    pub(super) padding: u16,
}

const OPERATION_BYTES: usize = 30;

/// What a query of a register gives: its revision and the entry that wrote it last, both 0 where none did.
fn answer_bytes(revision: u64, entry: EntryIndex) -> Vec<u8> {
    [revision.to_be_bytes(), entry.to_be_bytes()].concat()
}

impl Operation {
    /// As the revision of an operation: no register ever has it, so the operation is refused and tells what it found. An ordered
    /// read.
    pub(super) const READ: u64 = u64::MAX - 1;

    pub(super) fn encode(&self) -> Vec<u8> {
        // A CBOR byte string.
        let length = OPERATION_BYTES as u16 + self.padding;
        let mut bytes = match u8::try_from(length) {
            Ok(length) => vec![0x58, length],
            Err(_) => vec![0x59, (length >> 8) as u8, length as u8],
        };
        bytes.extend_from_slice(&self.client.to_be_bytes());
        bytes.extend_from_slice(&self.session.to_be_bytes());
        bytes.extend_from_slice(&self.number.to_be_bytes());
        bytes.push(self.variant);
        bytes.push(self.register);
        bytes.extend_from_slice(&self.revision.to_be_bytes());
        bytes.resize(bytes.len() + usize::from(self.padding), 0);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (length, rest) = match bytes {
            [0x58, length, rest @ ..] => (u16::from(*length), rest),
            [0x59, high, low, rest @ ..] => (u16::from_be_bytes([*high, *low]), rest),
            _ => return None,
        };
        let padding = length.checked_sub(OPERATION_BYTES as u16)?;
        let (client, rest) = rest.split_first_chunk()?;
        let (session, rest) = rest.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        let (&[variant, register], rest) = rest.split_first_chunk()?;
        let (revision, rest) = rest.split_first_chunk()?;
        (rest.len() == usize::from(padding) && rest.iter().all(|byte| *byte == 0)).then_some(Self {
            client: u32::from_be_bytes(*client),
            session: u64::from_be_bytes(*session),
            number: u64::from_be_bytes(*number),
            variant,
            register,
            revision: u64::from_be_bytes(*revision),
            padding,
        })
    }
}

/// One execution, as the application saw it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Applied {
    pub(super) position: Position,
    pub(super) origin: PublicKey,
    pub(super) time_ms: i64,
    pub(super) operation: Operation,
}

/// See the module.
#[derive(Default)]
pub(super) struct Registers {
    values: Values,
    /// Executions that the state was restored with.
    pub(super) before: usize,
    /// Everything executed since the start; what a snapshot brought is not in it.
    pub(super) applied: Vec<Applied>,
}

/// The state.
#[derive(Clone, Default)]
struct Values {
    /// Operations executed.
    executed: u64,
    /// Revision and last writing entry by register.
    registers: BTreeMap<u8, (u64, EntryIndex)>,
    /// The last revision that each entry wrote, by register and entry: what reads of the past are answered from.
    written: BTreeMap<(u8, EntryIndex), u64>,
}

/// Register, entry, revision.
const ROW_BYTES: usize = 17;

impl Values {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.executed.to_be_bytes().to_vec();
        for ((register, entry), revision) in &self.written {
            bytes.push(*register);
            bytes.extend_from_slice(&entry.to_be_bytes());
            bytes.extend_from_slice(&revision.to_be_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let malformed = |at, what| Err(StateError::Malformed { at, what });
        let Some((executed, rows)) = bytes.split_first_chunk::<8>() else { return malformed(0, "too short") };
        let mut values = Self { executed: u64::from_be_bytes(*executed), ..Self::default() };
        let (rows, rest) = rows.as_chunks::<ROW_BYTES>();
        for (index, row) in rows.iter().enumerate() {
            let number = |at: usize| row[at..at + 8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
            let (place, revision) = ((row[0], number(1)), number(9));
            if values.written.last_key_value().is_some_and(|(last, _)| *last >= place) {
                return malformed(8 + index * ROW_BYTES, "writes do not ascend");
            }
            values.written.insert(place, revision);
            values.registers.insert(place.0, (revision, place.1));
        }
        if !rest.is_empty() {
            return malformed(8 + rows.len() * ROW_BYTES, "a row has 17 bytes");
        }
        Ok(values)
    }
}

impl Frozen for Values {
    fn write(&self, out: &mut dyn io::Write) -> io::Result<()> {
        out.write_all(&self.encode())
    }
}

impl Application for Registers {
    fn check(&self, operation: &[u8]) -> Result<usize, Code> {
        Operation::decode(operation).map(|_| 1).ok_or(Code::MALFORMED)
    }

    fn execute(&mut self, context: &OperationContext<'_>, operation: &[u8], outcome: &mut Outcome) {
        outcome.clear();
        let Some(operation) = Operation::decode(operation) else {
            return outcome.refuse(Code::MALFORMED, format_args!("no operation"));
        };
        let (position, origin) = (context.position, *context.origin);
        self.values.executed += 1;
        self.applied.push(Applied { position, origin, time_ms: context.time_ms, operation });
        let before = self.values.registers.get(&operation.register).copied();
        let revision = before.map_or(0, |(revision, _)| revision);
        if operation.revision != u64::MAX && operation.revision != revision {
            return outcome.refuse(Code::CONDITION_FAILED, format_args!("the revision is {revision}"));
        }
        self.values.registers.insert(operation.register, (revision + 1, position.entry));
        self.values.written.insert((operation.register, position.entry), revision + 1);
        outcome.changes.push(Change { path: 0, revision: revision + 1, previous: before.map(|(_, entry)| entry) });
    }

    /// A register, and where 8 bytes follow, as it was behind that entry.
    fn query(&self, _history: &dyn Entries, query: &[u8], answer: &mut Answer) -> Code {
        *answer = Answer::default();
        let Some((register, at)) = query.split_first() else { return Code::BAD_QUERY };
        let last = match (at, at.try_into()) {
            ([], _) => EntryIndex::MAX,
            (_, Ok(at)) => EntryIndex::from_be_bytes(at),
            _ => return Code::BAD_QUERY,
        };
        let found = self.values.written.range((*register, 0)..=(*register, last)).next_back();
        let (revision, entry) = found.map_or((0, 0), |((_, entry), revision)| (*revision, *entry));
        (answer.valid_from, answer.body) = (entry, answer_bytes(revision, entry));
        Code::DONE
    }

    fn slot_count(&self) -> u64 {
        self.values.registers.len() as u64
    }

    fn state_root(&mut self) -> Digest {
        sha256(&[&self.values.encode()])
    }

    fn absence_root(&mut self) -> Digest {
        self.state_root()
    }

    fn freeze(&self) -> Box<dyn Frozen> {
        Box::new(self.values.clone())
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        self.values = Values::decode(bytes)?;
        self.before = self.values.executed as usize;
        self.applied.clear();
        Ok(())
    }
}
