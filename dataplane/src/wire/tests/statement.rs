//! Key statements, their bytes derived by another encoder.

use minicbor::Encoder;
use minicbor::data::Tag;
use proptest::prelude::*;

use crate::crypto::SecretKey;
use crate::types::{Code, Signature};
use crate::wire::limits::MAX_STATEMENT;
use crate::wire::statement::{
    KeyChange, KeyStatement, MAX_REASON, SignedStatement, StatementError, Validity, carried, is_printed_name,
    is_statement, operation,
};

const ORIGIN: &str = "twin.example/plant-7";

fn secret(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

fn statement(change: KeyChange) -> KeyStatement {
    KeyStatement { number: 7, key: secret(2).public(), change, reason: Some("new colleague".to_owned()) }
}

fn register(name: &str) -> KeyStatement {
    let validity = Validity { from_ms: Some(-5), until_ms: Some(1_000_000) };
    statement(KeyChange::Register { name: name.to_owned(), role: Some("operator".to_owned()), validity })
}

fn signed(statement: &KeyStatement) -> Vec<u8> {
    let signer = secret(1);
    statement.sign(ORIGIN, signer.public(), |bytes| signer.sign(bytes))
}

fn parse(statement: &KeyStatement) -> Result<KeyStatement, StatementError> {
    SignedStatement::parse(&signed(statement), ORIGIN).map(|signed| signed.statement)
}

/// Items of a payload; what is null is `None`.
fn payload(action: u8, role: Option<&str>, name: Option<&str>, from: Option<i64>, replaces: Option<&[u8]>) -> Vec<u8> {
    let mut e = Encoder::new(Vec::new());
    e.array(11).unwrap().str("atlas-key/1").unwrap().str(ORIGIN).unwrap().u8(7).unwrap().u8(action).unwrap();
    e.bytes(&secret(2).public().0).unwrap().encode(role).unwrap().encode(name).unwrap();
    e.encode(from).unwrap().encode(from.map(|_| 1_000_000)).unwrap();
    match replaces {
        Some(key) => e.bytes(key).unwrap(),
        None => e.null().unwrap(),
    };
    e.str("new colleague").unwrap();
    e.into_writer()
}

/// The COSE_Sign1 around a payload, with a good signature.
fn envelope(payload: &[u8]) -> Vec<u8> {
    let signer = secret(1);
    let mut header = Encoder::new(Vec::new());
    header.map(2).unwrap().u8(1).unwrap().i8(-8).unwrap().u8(4).unwrap().bytes(&signer.public().0).unwrap();
    let header = header.into_writer();
    let mut e = Encoder::new(Vec::new());
    e.array(4).unwrap().str("Signature1").unwrap().bytes(&header).unwrap().bytes(&[]).unwrap().bytes(payload).unwrap();
    let signature = signer.sign(&e.into_writer());
    let mut e = Encoder::new(Vec::new());
    e.tag(Tag::new(18)).unwrap().array(4).unwrap().bytes(&header).unwrap().map(0).unwrap();
    e.bytes(payload).unwrap().bytes(&signature.0).unwrap();
    e.into_writer()
}

#[test]
fn statements_have_the_bytes_of_the_format() {
    let other = secret(3).public();
    let validity = Validity { from_ms: Some(-5), until_ms: Some(1_000_000) };
    let cases = [
        (register("Anna Müller"), payload(0, Some("operator"), Some("Anna Müller"), Some(-5), None)),
        (
            statement(KeyChange::Register { name: "boss".to_owned(), role: None, validity: Validity::default() }),
            payload(0, None, Some("boss"), None, None),
        ),
        (statement(KeyChange::Rotate { replaces: other, validity }), payload(1, None, None, Some(-5), Some(&other.0))),
        (statement(KeyChange::Revoke), payload(2, None, None, None, None)),
    ];
    for (statement, payload) in cases {
        let bytes = envelope(&payload);
        assert_eq!(signed(&statement), bytes);
        let read = SignedStatement::parse(&bytes, ORIGIN).unwrap();
        assert_eq!((&read.statement, read.signer, read.holds()), (&statement, secret(1).public(), true));
        let carrier = operation(&bytes);
        assert_eq!(carrier, minicbor::to_vec((4u8, minicbor::bytes::ByteVec::from(bytes.clone()))).unwrap());
        assert!(is_statement(&carrier));
        assert_eq!(carried(&carrier), Some(bytes.as_slice()));
        assert_eq!(SignedStatement::of_operation(&carrier, ORIGIN), Ok(read));
    }
}

#[test]
fn what_an_action_does_not_take_is_refused() {
    let (key, own) = (secret(3).public().0, secret(2).public().0);
    let wrong = [
        payload(3, Some("operator"), Some("a"), None, None),
        payload(0, Some("operator"), None, None, None),
        payload(0, Some("operator"), Some("a"), None, Some(&key)),
        payload(1, None, None, None, None),
        payload(1, None, Some("a"), None, Some(&key)),
        payload(1, Some("operator"), None, None, Some(&key)),
        payload(1, None, None, None, Some(&own)),
        payload(1, None, None, None, Some(&key[..31])),
        payload(2, None, Some("a"), None, None),
        payload(2, None, None, Some(1), None),
        payload(2, None, None, None, Some(&key)),
    ];
    for payload in wrong {
        let error = SignedStatement::parse(&envelope(&payload), ORIGIN).unwrap_err();
        assert!(matches!(error, StatementError::Payload(_)), "{error}");
        assert_eq!(error.code(), Code::MALFORMED);
    }
    let good = payload(2, None, None, None, None);
    let trailing = [good.as_slice(), &[0]].concat();
    assert!(SignedStatement::parse(&envelope(&trailing), ORIGIN).is_err());
    // A longer form of the number: 7 as 0x18 0x07.
    let at = 1 + 12 + 1 + ORIGIN.len();
    assert_eq!(good[at], 7);
    let long = [&good[..at], &[0x18, 0x07], &good[at + 1..]].concat();
    assert!(SignedStatement::parse(&envelope(&long), ORIGIN).is_err());
    assert_eq!(SignedStatement::parse(&envelope(&good), "another").unwrap_err(), StatementError::Origin);
}

#[test]
fn each_rule_has_its_error() {
    let reason = |length| KeyStatement { reason: Some("r".repeat(length)), ..statement(KeyChange::Revoke) };
    assert!(parse(&reason(MAX_REASON)).is_ok());
    assert_eq!(parse(&reason(MAX_REASON + 1)), Err(StatementError::Reason));
    assert!(matches!(parse(&reason(MAX_STATEMENT)), Err(StatementError::TooLarge(_))));
    for name in ["", " a", "a ", "a\nb", "a\u{202e}b", "a\u{200b}", "\u{9b}31m", &"ä".repeat(33)] {
        assert_eq!(parse(&register(name)), Err(StatementError::Name), "{name:?}");
        assert!(!is_printed_name(name));
    }
    assert!(parse(&register(&"ä".repeat(32))).is_ok());
    let never = Validity { from_ms: Some(5), until_ms: Some(5) };
    let rotate = statement(KeyChange::Rotate { replaces: secret(3).public(), validity: never });
    assert_eq!(parse(&rotate), Err(StatementError::Validity));
    let forged = register("a").sign(ORIGIN, secret(1).public(), |_| Signature([0; 64]));
    assert!(!SignedStatement::of_operation(&operation(&forged), ORIGIN).unwrap().holds());
    for other in [&[0x82, 0x04][..], &[0x82, 0x04, 0x61, b'a'], &[0x82, 0x04, 0x40, 0x00]] {
        assert!(is_statement(other) && carried(other).is_none());
        assert!(SignedStatement::of_operation(other, ORIGIN).is_err());
    }
    assert!(!is_statement(&[0x81, 0x03]) && !is_statement(&[0x84, 0x00]));
}

proptest! {
    #[test]
    fn a_changed_byte_never_says_the_same(at in any::<prop::sample::Index>(), with in 1..=255u8, kind in 0..3) {
        let change = match kind {
            0 => KeyChange::Register { name: "a".to_owned(), role: None, validity: Validity::default() },
            1 => KeyChange::Revoke,
            _ => KeyChange::Rotate { replaces: secret(3).public(), validity: Validity::default() },
        };
        let mut bytes = signed(&statement(change));
        let before = SignedStatement::parse(&bytes.clone(), ORIGIN).map(|signed| signed.statement);
        let at = at.index(bytes.len());
        bytes[at] ^= with;
        if let Ok(signed) = SignedStatement::parse(&bytes, ORIGIN) {
            // Only what stands in the payload, the key or the signature may differ; and then the signature does not hold.
            prop_assert!(Ok(&signed.statement) != before.as_ref() || !signed.holds());
            let signature = Signature(bytes[bytes.len() - 64..].try_into().unwrap());
            prop_assert_eq!(signed.statement.sign(ORIGIN, signed.signer, |_| signature), bytes.clone());
            prop_assert!(!signed.holds());
        }
    }
}
