//! Bundles against FORMATS.md by hand: bytes, digest, Sig_structure and root are written here without the code under test.

use ring::digest::{SHA256, digest};

use crate::types::{Code, PublicKey, Signature};
use crate::wire::bundle::{Bundle, OPEN_SESSION, Request};
use crate::wire::error::BundleError;
use crate::wire::limits::{MAX_BUNDLE_REQUESTS, MAX_ENTRY};

const ORIGIN: &str = "atlas.example/test";
const KEY: PublicKey = PublicKey([0x4b; 32]);
const SIGNATURE: Signature = Signature([0x53; 64]);

fn sha(parts: &[&[u8]]) -> [u8; 32] {
    digest(&SHA256, &parts.concat()).as_ref().try_into().unwrap()
}

/// RFC 6962, 2.1, as it stands there: split at the largest power of two below n.
fn root(leaves: &[Vec<u8>]) -> [u8; 32] {
    match leaves {
        [] => sha(&[]),
        [leaf] => sha(&[&[0], leaf]),
        _ => {
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            sha(&[&[1], &root(left), &root(right)])
        }
    }
}

/// A CBOR head (RFC 8949, 3).
fn head(major: u8, value: u64) -> Vec<u8> {
    let initial = major << 5;
    match value {
        0..24 => vec![initial | value as u8],
        24..0x100 => vec![initial | 24, value as u8],
        0x100..0x1_0000 => [&[initial | 25], &(value as u16).to_be_bytes()[..]].concat(),
        0x1_0000..0x1_0000_0000 => [&[initial | 26], &(value as u32).to_be_bytes()[..]].concat(),
        _ => [&[initial | 27], &value.to_be_bytes()[..]].concat(),
    }
}

fn string(major: u8, content: &[u8]) -> Vec<u8> {
    [head(major, content.len() as u64), content.to_vec()].concat()
}

fn request(operation: &[u8]) -> Vec<u8> {
    [&[0x83, 0x01, 0xf6], operation].concat()
}

/// The parts of a bundle as bytes, each replaceable by something else.
#[derive(Clone)]
struct Parts {
    format: Vec<u8>,
    origin: Vec<u8>,
    session: Vec<u8>,
    first: Vec<u8>,
    count: Vec<u8>,
    root: Vec<u8>,
    time: Vec<u8>,
    protected: Vec<u8>,
    unprotected: Vec<u8>,
    signature: Vec<u8>,
    tag: Vec<u8>,
    array: Vec<u8>,
    payload_array: Vec<u8>,
    payload_head: Option<Vec<u8>>,
    payload_after: Vec<u8>,
    after: Vec<u8>,
    requests: Vec<Vec<u8>>,
}

fn parts(session: Option<u64>, first: u64, requests: &[Vec<u8>]) -> Parts {
    Parts {
        format: string(3, b"atlas-bundle/1"),
        origin: string(3, ORIGIN.as_bytes()),
        session: session.map_or(vec![0xf6], |session| head(0, session)),
        first: head(0, first),
        count: head(0, requests.len() as u64),
        root: string(2, &root(requests)),
        time: head(0, 1_700_000_000_000),
        protected: string(2, &[&[0xa2, 0x01, 0x27, 0x04, 0x58, 0x20], &KEY.0[..]].concat()),
        unprotected: vec![0xa0],
        signature: string(2, &SIGNATURE.0),
        tag: vec![0xd2],
        array: vec![0x84],
        payload_array: vec![0x87],
        payload_head: None,
        payload_after: Vec::new(),
        after: Vec::new(),
        requests: requests.to_vec(),
    }
}

impl Parts {
    fn payload(&self) -> Vec<u8> {
        [
            &self.payload_array,
            &self.format,
            &self.origin,
            &self.session,
            &self.first,
            &self.count,
            &self.root,
            &self.time,
        ]
        .into_iter()
        .chain([&self.payload_after])
        .flatten()
        .copied()
        .collect()
    }

    fn cose(&self) -> Vec<u8> {
        let payload = self.payload();
        let payload_head = self.payload_head.clone().unwrap_or_else(|| head(2, payload.len() as u64));
        [
            &self.tag,
            &self.array,
            &self.protected,
            &self.unprotected,
            &payload_head,
            &payload,
            &self.signature,
            &self.after,
        ]
        .into_iter()
        .flatten()
        .copied()
        .collect()
    }

    fn parse(&self) -> Result<Bundle, BundleError> {
        parse(&self.cose(), &self.requests)
    }
}

fn parse(cose: &[u8], requests: &[Vec<u8>]) -> Result<Bundle, BundleError> {
    Bundle::parse(cose, requests.iter().map(Vec::as_slice), ORIGIN)
}

fn good() -> Parts {
    parts(Some(1042), 7, &[request(&[0x01]), request(&[0x82, 0x02, 0xf4]), request(b"\x43abc")])
}

#[test]
fn a_bundle_is_what_formats_md_says() {
    let parts = good();
    let bundle = parts.parse().unwrap();
    assert_eq!(bundle.digest().0, sha(&[&parts.cose()]));
    assert_eq!(bundle.cose(), parts.cose());
    assert_eq!(bundle.requests().map(<[u8]>::to_vec).collect::<Vec<_>>(), parts.requests);
    assert_eq!((bundle.key(), bundle.signature()), (&KEY, &SIGNATURE));
    let header = bundle.header();
    assert_eq!((header.session, header.first, header.count), (Some(1042), 7, 3));
    assert_eq!((header.root.0, header.client_time_ms), (root(&parts.requests), 1_700_000_000_000));
    // RFC 9052, 4.4: ["Signature1", protected, external_aad, payload].
    let structure =
        [vec![0x84], string(3, b"Signature1"), parts.protected.clone(), vec![0x40], string(2, &parts.payload())]
            .concat();
    assert_eq!(bundle.signed_bytes(), structure);
    assert_eq!(bundle.size(), parts.cose().len() + parts.requests.iter().map(Vec::len).sum::<usize>());
    let decoded: Vec<_> = bundle.decoded_requests().collect();
    assert_eq!(decoded[1], Request { class: 1, not_after_ms: None, operation: &[0x82, 0x02, 0xf4] });
    assert_eq!(bundle.request_bytes(2), parts.requests[2]);
}

#[test]
fn signing_writes_the_same_bytes_at_every_width_of_number() {
    for number in [0, 23, 24, 255, 256, 65_535, 65_536, u64::from(u32::MAX), 1 << 32, u64::MAX - 1] {
        for time in [0, -1, i64::MIN, i64::MAX, 1_700_000_000_000] {
            let requests = vec![request(&[0x01])];
            let mut expected = parts(Some(number), number, &requests);
            expected.time = if time < 0 { head(1, !time as u64) } else { head(0, time as u64) };
            let mut signed = Vec::new();
            let bundle = Bundle::sign(ORIGIN, KEY, Some(number), number, &requests, time, |bytes| {
                signed = bytes.to_vec();
                SIGNATURE
            })
            .unwrap();
            assert_eq!(bundle.cose(), expected.cose());
            assert_eq!(bundle.signed_bytes(), signed);
            assert_eq!(expected.parse().as_ref(), Ok(&bundle));
        }
    }
}

#[test]
fn every_count_of_requests_has_the_root_of_rfc_6962() {
    for count in 1..=MAX_BUNDLE_REQUESTS {
        let requests: Vec<_> = (0..count).map(|i| request(&head(0, i as u64))).collect();
        let bundle = Bundle::sign(ORIGIN, KEY, Some(1), 0, &requests, 5, |_| SIGNATURE).unwrap();
        assert_eq!(bundle.header().root.0, root(&requests), "{count}");
        assert_eq!(bundle.requests().len(), count);
    }
}

#[test]
fn a_session_is_opened_by_its_first_request_alone() {
    let open = request(&OPEN_SESSION);
    let set = request(&[0x81, 0x00]);
    assert!(Request::decode(&open).unwrap().opens_session());
    assert!(parts(None, 0, std::slice::from_ref(&open)).parse().is_ok());
    let bundle = Bundle::sign(ORIGIN, KEY, None, 0, &[open.clone(), set.clone()], 5, |_| SIGNATURE).unwrap();
    assert_eq!((bundle.header().session, bundle.header().first), (None, 0));
    for (why, session, first, requests) in [
        ("session null without [3]", None, 0, vec![set.clone()]),
        ("session null not from 0", None, 1, vec![open.clone()]),
        ("[3] in an open session", Some(9), 0, vec![open.clone()]),
        ("[3] twice", None, 0, vec![open.clone(), open.clone()]),
        ("[3] later", None, 0, vec![set.clone(), open.clone()]),
        ("[3] later in an open session", Some(9), 0, vec![set, open]),
    ] {
        assert_eq!(parts(session, first, &requests).parse(), Err(BundleError::Open), "{why}");
    }
}

#[test]
fn each_error_has_an_input() {
    let good = good();
    let cose = good.cose();
    assert_eq!(parse(&cose, &[]), Err(BundleError::Count { count: 0 }));
    let many = vec![request(&[0x01]); MAX_BUNDLE_REQUESTS + 1];
    assert_eq!(parts(Some(1), 0, &many).parse(), Err(BundleError::Count { count: MAX_BUNDLE_REQUESTS + 1 }));
    assert_eq!(parse(&cose, &good.requests[..2]), Err(BundleError::CountMismatch { signed: 3, sent: 2 }));
    let mut swapped = good.requests.clone();
    swapped.swap(0, 1);
    assert_eq!(parse(&cose, &swapped), Err(BundleError::Root));
    let requests = [request(&[0x01]), b"\x83\x01\xf6".to_vec()];
    assert_eq!(parts(Some(1), 0, &requests).parse(), Err(BundleError::Request(1)));
    let other = Bundle::parse(&cose, good.requests.iter().map(Vec::as_slice), "atlas.example/other");
    assert_eq!(other, Err(BundleError::Origin));
    assert_eq!(parts(Some(1), u64::MAX - 2, &good.requests).parse(), Err(BundleError::Numbers));
    assert!(parts(Some(1), u64::MAX - 3, &good.requests).parse().is_ok());
    assert_eq!(parse(&[], &good.requests), Err(BundleError::Cose));
    assert_eq!(Parts { payload_array: vec![0x86], ..good }.parse(), Err(BundleError::Payload));
    assert_eq!(
        [BundleError::Origin, BundleError::TooLarge, BundleError::Count { count: 0 }, BundleError::Root]
            .map(BundleError::code),
        [Code::WRONG_ORIGIN, Code::TOO_LARGE, Code::TOO_LARGE, Code::MALFORMED]
    );
}

#[test]
fn the_entry_of_an_accepted_bundle_stays_within_its_limit() {
    let with = |length: usize| {
        let requests = [request(&string(2, &vec![0; length]))];
        (parts(Some(u64::MAX), 0, &requests).parse(), requests[0].len())
    };
    let most = (60_000..MAX_ENTRY).rev().find(|length| with(*length).0.is_ok()).unwrap();
    assert_eq!(with(most + 1).0, Err(BundleError::TooLarge));
    let (Ok(bundle), request) = with(most) else { panic!("just parsed") };
    // [1, 1, sequence, time_ms, cose_sign1, [request], [[code, []]]] with the widest numbers.
    let entry = 1 + 1 + 1 + 9 + 9 + bundle.cose().len() + 1 + request + 1 + (1 + 3 + 1);
    assert!(entry <= MAX_ENTRY && MAX_ENTRY - entry < 100, "{entry}");
    assert!(bundle.fits_entry(0) && !bundle.fits_entry(2));
}

#[test]
fn what_is_not_the_deterministic_encoding_is_refused() {
    let good = good();
    let cose = |why: &str, parts: &Parts| assert_eq!(parts.parse(), Err(BundleError::Cose), "{why}");
    cose("no tag", &Parts { tag: vec![], ..good.clone() });
    cose("another tag", &Parts { tag: vec![0xd1], ..good.clone() });
    cose("long tag", &Parts { tag: vec![0xd8, 18], ..good.clone() });
    cose("long array", &Parts { array: vec![0x98, 4], ..good.clone() });
    cose("indefinite array", &Parts { array: vec![0x9f], after: vec![0xff], ..good.clone() });
    cose("bytes after", &Parts { after: vec![0x00], ..good.clone() });
    cose("unprotected map not empty", &Parts { unprotected: vec![0xa1, 0x01, 0x27], ..good.clone() });
    cose("long empty map", &Parts { unprotected: vec![0xb8, 0x00], ..good.clone() });
    cose("indefinite empty map", &Parts { unprotected: vec![0xbf, 0xff], ..good.clone() });
    cose("short signature", &Parts { signature: string(2, &[0; 63]), ..good.clone() });
    cose("signature as text", &Parts { signature: string(3, &[0; 64]), ..good.clone() });
    let long = |content: &[u8]| [&[0x59], &(content.len() as u16).to_be_bytes()[..], content].concat();
    cose("long length of the signature", &Parts { signature: long(&SIGNATURE.0), ..good.clone() });
    let payload_head = Some([&[0x59], &(good.payload().len() as u16).to_be_bytes()[..]].concat());
    assert!(good.payload().len() < 256);
    cose("long length of the payload", &Parts { payload_head, ..good.clone() });
    for (why, protected) in [
        ("kid before alg", [&[0xa2, 0x04, 0x58, 0x20], &KEY.0[..], &[0x01, 0x27]].concat()),
        ("another algorithm", [&[0xa2, 0x01, 0x26, 0x04, 0x58, 0x20], &KEY.0[..]].concat()),
        ("long alg", [&[0xa2, 0x01, 0x38, 0x07, 0x04, 0x58, 0x20], &KEY.0[..]].concat()),
        ("short key", [&[0xa2, 0x01, 0x27, 0x04, 0x58, 0x1f], &KEY.0[1..]].concat()),
        ("no kid", vec![0xa1, 0x01, 0x27]),
        ("empty", vec![]),
    ] {
        cose(why, &Parts { protected: string(2, &protected), ..good.clone() });
    }

    let payload = |why: &str, parts: &Parts| assert_eq!(parts.parse(), Err(BundleError::Payload), "{why}");
    payload("long array", &Parts { payload_array: vec![0x98, 7], ..good.clone() });
    payload("indefinite array", &Parts { payload_array: vec![0x9f], payload_after: vec![0xff], ..good.clone() });
    payload("item after", &Parts { payload_after: vec![0x00], ..good.clone() });
    payload("another format", &Parts { format: string(3, b"atlas-bundle/2"), ..good.clone() });
    payload(
        "long length of the format",
        &Parts { format: [b"\x78\x0e", &b"atlas-bundle/1"[..]].concat(), ..good.clone() },
    );
    payload("origin not UTF-8", &Parts { origin: string(3, &[0xff]), ..good.clone() });
    payload("origin as bytes", &Parts { origin: string(2, ORIGIN.as_bytes()), ..good.clone() });
    payload("session undefined", &Parts { session: vec![0xf7], ..good.clone() });
    payload("negative session", &Parts { session: vec![0x20], ..good.clone() });
    payload("long session", &Parts { session: vec![0x1a, 0, 0, 0x04, 0x12], ..good.clone() });
    payload("long first", &Parts { first: vec![0x18, 7], ..good.clone() });
    payload("long count", &Parts { count: vec![0x19, 0, 3], ..good.clone() });
    payload("count beyond u16", &Parts { count: vec![0x1a, 0, 1, 0, 0], ..good.clone() });
    payload("short root", &Parts { root: string(2, &[0; 31]), ..good.clone() });
    payload("time as a float", &Parts { time: vec![0xf9, 0, 0], ..good.clone() });
    payload("time beyond i64", &Parts { time: head(0, 1 << 63), ..good.clone() });
    payload("long time", &Parts { time: vec![0x18, 5], ..good });
}

#[test]
fn no_changed_or_missing_byte_gives_the_same_bundle() {
    let good = good();
    let (cose, digest) = (good.cose(), good.parse().unwrap().digest());
    for at in 0..cose.len() {
        assert!(parse(&cose[..at], &good.requests).is_err(), "cut at {at}");
        for bit in 0..8 {
            let mut changed = cose.clone();
            changed[at] ^= 1 << bit;
            if let Ok(bundle) = parse(&changed, &good.requests) {
                assert_ne!(bundle.digest(), digest);
                assert_eq!(bundle.cose(), changed);
            }
        }
    }
}

#[test]
fn requests_round_trip_and_refuse_other_forms() {
    for class in [0, 23, 24, 255] {
        for not_after_ms in [None, Some(0), Some(-1), Some(24), Some(i64::MAX), Some(i64::MIN)] {
            let request = Request { class, not_after_ms, operation: &[0x81, 0x03] };
            assert_eq!(Request::decode(&request.encode()), Some(request));
        }
    }
    assert_eq!(
        Request { class: 24, not_after_ms: Some(-1), operation: &[0x00] }.encode(),
        [0x83, 0x18, 24, 0x20, 0x00]
    );
    for (why, bytes) in [
        ("nothing", &[][..]),
        ("two items", &[0x82, 0x01, 0xf6]),
        ("long array", &[0x98, 0x03, 0x01, 0xf6, 0x00]),
        ("indefinite array", &[0x9f, 0x01, 0xf6, 0x00, 0xff]),
        ("long class", &[0x83, 0x18, 0x01, 0xf6, 0x00]),
        ("class beyond u8", &[0x83, 0x19, 0x01, 0x00, 0xf6, 0x00]),
        ("negative class", &[0x83, 0x20, 0xf6, 0x00]),
        ("undefined deadline", &[0x83, 0x01, 0xf7, 0x00]),
        ("long deadline", &[0x83, 0x01, 0x18, 0x05, 0x00]),
        ("no operation", &[0x83, 0x01, 0xf6]),
        ("two operations", &[0x83, 0x01, 0xf6, 0x00, 0x00]),
        ("a break for an operation", &[0x83, 0x01, 0xf6, 0xff]),
        ("long [3]", &[0x83, 0x01, 0xf6, 0x81, 0x18, 0x03]),
        ("indefinite operation", &[0x83, 0x01, 0xf6, 0x9f, 0x03, 0xff]),
    ] {
        assert_eq!(Request::decode(bytes), None, "{why}");
    }
}
