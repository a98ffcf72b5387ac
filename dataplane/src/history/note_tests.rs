use super::*;
use crate::crypto::SecretKey;

const VECTOR: &str = include_str!("../../tests/vectors/checkpoint");

fn body() -> CheckpointBody {
    CheckpointBody { origin: "twin.example/plant-7".to_owned(), size: 9, root: Digest([7; 32]) }
}

#[test]
fn the_independent_checkpoint_reads_and_renders() {
    let note = Note::parse(VECTOR.as_bytes()).expect("the vector is a checkpoint");
    assert_eq!(note.to_string(), VECTOR);
    assert_eq!((note.body.origin.as_str(), note.body.size, note.lines.len()), ("twin.example/plant-7", 9, 4));
    assert_eq!(assemble(&note.body, &note.lines[..1], &note.lines[1..]).as_deref(), Some(VECTOR));
    let reversed: Vec<_> = note.lines[1..].iter().rev().cloned().collect();
    assert_eq!(assemble(&note.body, &note.lines[..1], &reversed).as_deref(), Some(VECTOR));
}

#[test]
fn what_a_replica_signs_verifies() {
    let (log, cosign) = (SecretKey::from_seed(&[1; 32]), SecretKey::from_seed(&[2; 32]));
    let body = body();
    let line = log_line(&body.origin, &log.public(), &log.sign(body.to_string().as_bytes()));
    let signature = cosign.sign(cosignature_message(&body, 1_700_000_000).as_bytes());
    let cosignature = cosignature_line(&body.origin, ReplicaId(3), &cosign.public(), 1_700_000_000, &signature);
    let text = assemble(&body, &[line], &[cosignature]).expect("a size and a log line");
    let note = Note::parse(text.as_bytes()).expect("what we assemble we read");
    assert_eq!(note.to_string(), text);
    let [line, cosignature] = note.lines.as_slice() else { panic!("two lines") };
    assert!(line.verify_log(&body, &log.public()) && !line.verify_log(&body, &cosign.public()));
    assert_eq!(cosignature.name, "twin.example/plant-7/replica/3");
    assert_eq!(cosignature.verify_cosignature(&body, &cosign.public()), Some(1_700_000_000));
    assert_eq!(cosignature.verify_cosignature(&body, &log.public()), None);
    let other = CheckpointBody { size: 10, ..body.clone() };
    assert!(!line.verify_log(&other, &log.public()));
    assert_eq!(cosignature.verify_cosignature(&other, &cosign.public()), None);
    let mut later = cosignature.clone();
    later.bytes[7] ^= 1;
    assert_eq!(later.verify_cosignature(&body, &cosign.public()), None);
}

#[test]
fn nothing_is_assembled_for_nothing() {
    let body = body();
    let line = SignatureLine { name: "a".to_owned(), key_id: [0; 4], bytes: vec![0] };
    assert_eq!(assemble(&CheckpointBody { size: 0, ..body.clone() }, std::slice::from_ref(&line), &[]), None);
    assert_eq!(assemble(&body, &[], std::slice::from_ref(&line)), None);
    assert_eq!(assemble(&body, &vec![line.clone(); MAX_LINES], std::slice::from_ref(&line)), None);
    assert!(assemble(&body, &vec![line; MAX_LINES], &[]).is_some());
}

#[test]
fn each_fault_has_its_own_message() {
    let error = |text: &str| Note::parse(text.as_bytes()).expect_err(text);
    let edited = |from: &str, to: &str| {
        let text = VECTOR.replacen(from, to, 1);
        assert_ne!(text, VECTOR, "{from}");
        error(&text)
    };
    let line = |line, fault| NoteError::Line { line, fault };
    assert_eq!(Note::parse(&[0xff]), Err(NoteError::Utf8(0)));
    assert_eq!(Note::parse(&vec![b'a'; MAX_NOTE + 1]), Err(NoteError::TooLong(MAX_NOTE + 1)));
    assert_eq!(error(""), NoteError::NoSignatures);
    assert_eq!(edited("\n9\n", "\r\n9\n"), NoteError::Control(20));
    assert_eq!(edited("\n\n", "\n"), NoteError::NoSignatures);
    assert_eq!(error(&VECTOR[..VECTOR.len() - 1]), NoteError::Unterminated);
    assert_eq!(edited("\n9\n", "\n"), NoteError::BodyLines);
    assert_eq!(edited("\n\n", "\nmore\n\n"), NoteError::Extension);
    assert_eq!(edited("twin.example/plant-7", ""), NoteError::Origin);
    assert_eq!(edited("twin.example", "twin example"), NoteError::Origin);
    for size in ["09", "+9", "-9", "9 ", "", "0x9", "9223372036854775808", "99999999999999999999"] {
        assert_eq!(edited("\n9\n", &format!("\n{size}\n")), NoteError::Size, "{size}");
    }
    assert_eq!(edited("\n9\n", "\n0\n"), NoteError::SizeZero);
    for root in
        ["0UDX", "", "0UDXHGVWodmKrHUEWLD3ubBiWlnBv1XJz1RNXT30ieB=", "0UDXHGVWodmKrHUEWLD3ubBiWlnBv1XJz1RNXT30ieA"]
    {
        assert_eq!(edited("0UDXHGVWodmKrHUEWLD3ubBiWlnBv1XJz1RNXT30ieA=", root), NoteError::Root, "{root}");
    }
    assert_eq!(edited("— ", "- "), line(5, LineFault::Start));
    assert_eq!(edited("replica/1 ", "replica/1"), line(7, LineFault::Parts));
    assert_eq!(edited("replica/1 ", "replica+1 "), line(7, LineFault::Name));
    assert_eq!(edited("replica/1 ", "replica/1\u{a0}b "), line(7, LineFault::Name));
    assert_eq!(edited("replica/2 ", "replica/2 *"), line(8, LineFault::Base64));
    assert_eq!(edited("replica/2 ", "replica/2  "), line(8, LineFault::Base64));
    assert_eq!(error(&format!("{VECTOR}— a AAAAAA==\n")), line(9, LineFault::Short));
    // Two padded texts, one behind the other.
    assert_eq!(error(&format!("{VECTOR}— a AAAAAA==AAAA\n")), line(9, LineFault::Base64));
    let many = format!("{VECTOR}{}", "— a AAAAAAA=\n".repeat(MAX_LINES - 3));
    assert_eq!(error(&many), NoteError::TooManyLines);
}
