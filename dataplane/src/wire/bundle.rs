//! Bundles: what a client signs (FORMATS.md, "What a client signs").
//!
//! A bundle is a COSE_Sign1 (RFC 9052, tag 18) whose payload names the cluster, the session, the request numbers and the RFC
//! 6962 root over the encoded requests. One signature so serves up to 256 requests, and each can be shown alone by its path.
//!
//! Parsing is strict: the bytes must be the one deterministic encoding (RFC 8949, 4.2.1) of what they say, which
//! [`crate::cbor`] sees to. That holds for the operations too: an entry of the history holds requests as they are, so a client
//! must not be able to put bytes there that an auditor's reader stumbles over. The signature is not checked here: the verify
//! stage does that in batches, over [`Bundle::signed_bytes`].
//!
//! A bundle that opens a session has session null and the numbers from 0; its request 0 is the operation `[3]`, and further
//! requests in it belong to the session that it opens. `[3]` stands nowhere else.

use super::error::BundleError;
use super::limits::{MAX_BUNDLE_REQUESTS, MAX_ENTRY, MAX_OPERATION_DEPTH};
use crate::cbor::{CborError, Reader, Writer, is_item};
use crate::crypto::hash::{RootBuilder, merkle_root, sha256};
use crate::types::{Digest, PublicKey, Signature, TimeMs};

/// The payload's first item: the format and its version.
const BUNDLE_FORMAT: &str = "atlas-bundle/1";

/// CBOR of the operation that opens a session.
pub const OPEN_SESSION: [u8; 2] = [0x81, 0x03];

/// The CBOR tag of a COSE_Sign1 (RFC 9052).
const COSE_SIGN1: u64 = 18;

/// Bytes of an entry beyond the bundle, its requests and its outcomes: array heads, kinds, sequence and time.
const ENTRY_OVERHEAD: usize = 64;

/// Largest encoding of one outcome without its changes: array head, code, array head.
const OUTCOME_BYTES: usize = 8;

/// Largest encoding of one change: array head, path index, revision, previous entry.
const CHANGE_BYTES: usize = 28;

/// One request of a bundle, read in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request<'a> {
    /// Priority class; 0 is the most urgent.
    pub class: u8,
    /// Agreed time after which it is not executed any more.
    pub not_after_ms: Option<TimeMs>,
    /// The application's operation, deterministic CBOR.
    pub operation: &'a [u8],
}

impl<'a> Request<'a> {
    /// Reads a request.
    ///
    /// # Errors
    /// `None` unless the bytes are `[class, not_after_ms / null, operation]` in deterministic encoding, the operation one item
    /// of any type nested at most [`super::limits::MAX_OPERATION_DEPTH`] deep.
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        Self::read(bytes).filter(|request| is_item(request.operation, MAX_OPERATION_DEPTH))
    }

    /// Reads a request that [`Request::decode`] found well-formed.
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let (class, not_after_ms) = read_request_head(&mut reader).ok()?;
        Some(Self { class, not_after_ms, operation: bytes.get(reader.offset()..)? })
    }

    /// The request's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.operation.len() + REQUEST_HEAD);
        let mut out = Writer(&mut bytes);
        out.array(3).uint(u64::from(self.class));
        out.optional(self.not_after_ms, |out, time| {
            out.int(time);
        });
        out.items(self.operation);
        bytes
    }

    /// Whether this is the operation that opens a session.
    pub fn opens_session(&self) -> bool {
        self.operation == OPEN_SESSION
    }
}

/// Most bytes of a request before its operation: array head, class, time.
const REQUEST_HEAD: usize = 1 + 2 + 9;

fn read_request_head(reader: &mut Reader<'_>) -> Result<(u8, Option<TimeMs>), CborError> {
    reader.array_of(3)?;
    Ok((reader.narrow()?, reader.optional(Reader::int)?))
}

/// What the signature covers besides the format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BundleHeader {
    /// The session; `None` opens one.
    pub session: Option<u64>,
    /// Number of the first request.
    pub first: u64,
    /// Number of requests.
    pub count: u16,
    /// RFC 6962 root over the encoded requests.
    pub root: Digest,
    /// The client's time, ms.
    pub client_time_ms: TimeMs,
}

/// A bundle that is well-formed; whether its signature holds is the verify stage's finding.
#[derive(Clone, PartialEq, Eq)]
pub struct Bundle {
    digest: Digest,
    key: PublicKey,
    signature: Signature,
    header: BundleHeader,
    /// The COSE_Sign1 and after it all requests.
    bytes: Box<[u8]>,
    cose_length: u32,
    payload: (u32, u32),
    /// End of each request in `bytes`.
    ends: Box<[u32]>,
    /// The leaf hash of each request, as the bundle's root is over them.
    leaves: Box<[Digest]>,
}

impl std::fmt::Debug for Bundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Bundle({:?} session {:?} first {} count {})",
            self.digest, self.header.session, self.header.first, self.header.count
        )
    }
}

impl Bundle {
    /// Builds and signs a bundle of `requests` (encoded, see [`Request::encode`]).
    ///
    /// # Errors
    /// Those of [`Bundle::parse`], which a bundle built here passes as well.
    pub fn sign(
        origin: &str,
        key: PublicKey,
        session: Option<u64>,
        first: u64,
        requests: &[Vec<u8>],
        client_time_ms: TimeMs,
        sign: impl FnOnce(&[u8]) -> Signature,
    ) -> Result<Self, BundleError> {
        let count = u16::try_from(requests.len()).map_err(|_| BundleError::Count { count: requests.len() })?;
        let root = merkle_root(requests.iter().map(Vec::as_slice));
        let header = BundleHeader { session, first, count, root, client_time_ms };
        let payload = encode_payload(origin, &header);
        let signature = sign(&signature_structure(&key, &payload));
        let cose = encode_cose(&key, &payload, &signature);
        Self::parse(&cose, requests.iter().map(Vec::as_slice), origin)
    }

    /// Reads a bundle that was signed for the cluster `origin`; copies its bytes once.
    ///
    /// # Errors
    /// The first rule of the format that the bytes break.
    pub fn parse<'a>(
        cose: &[u8],
        requests: impl ExactSizeIterator<Item = &'a [u8]> + Clone,
        origin: &str,
    ) -> Result<Self, BundleError> {
        let count = requests.len();
        if count == 0 || count > MAX_BUNDLE_REQUESTS {
            return Err(BundleError::Count { count });
        }
        let Cose { key, payload, signature } = decode_cose(cose).map_err(|_| BundleError::Cose)?;
        let (header_origin, header) = decode_payload(payload).map_err(|_| BundleError::Payload)?;
        if header_origin != origin {
            return Err(BundleError::Origin);
        }
        if usize::from(header.count) != count {
            return Err(BundleError::CountMismatch { signed: u64::from(header.count), sent: count });
        }
        header.first.checked_add(count as u64).ok_or(BundleError::Numbers)?;
        if header.session.is_none() && header.first != 0 {
            return Err(BundleError::Open);
        }
        let total = cose.len() + requests.clone().map(<[u8]>::len).sum::<usize>();
        if total + ENTRY_OVERHEAD + count * OUTCOME_BYTES > MAX_ENTRY {
            return Err(BundleError::TooLarge);
        }
        let mut root = RootBuilder::default();
        let leaves: Box<[Digest]> = requests.clone().map(|request| root.push(request)).collect();
        if root.root() != header.root {
            return Err(BundleError::Root);
        }
        let mut bytes = Vec::with_capacity(total);
        bytes.extend_from_slice(cose);
        let mut ends = Vec::with_capacity(count);
        for (index, request) in requests.enumerate() {
            let decoded = Request::decode(request).ok_or(BundleError::Request(index))?;
            if decoded.opens_session() != (index == 0 && header.session.is_none()) {
                return Err(BundleError::Open);
            }
            bytes.extend_from_slice(request);
            ends.push(bytes.len() as u32);
        }
        let payload_start = (payload.as_ptr() as usize - cose.as_ptr() as usize) as u32;
        Ok(Self {
            digest: sha256(&[cose]),
            key,
            signature,
            header,
            cose_length: cose.len() as u32,
            payload: (payload_start, payload_start + payload.len() as u32),
            bytes: bytes.into_boxed_slice(),
            ends: ends.into_boxed_slice(),
            leaves,
        })
    }

    /// Reads a bundle that this replica accepted before, from its own log: as [`Bundle::parse`], for whatever cluster it names.
    ///
    /// # Errors
    /// As [`Bundle::parse`].
    pub fn read_back<'a>(
        cose: &[u8],
        requests: impl ExactSizeIterator<Item = &'a [u8]> + Clone,
    ) -> Result<Self, BundleError> {
        let Cose { payload, .. } = decode_cose(cose).map_err(|_| BundleError::Cose)?;
        let (origin, _) = decode_payload(payload).map_err(|_| BundleError::Payload)?;
        Self::parse(cose, requests, origin)
    }

    /// SHA-256 of the COSE_Sign1: what batches name it by. It covers the requests through their root.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The key that the bundle carries.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// The signature, to be checked over [`Bundle::signed_bytes`].
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// What was signed.
    pub fn header(&self) -> &BundleHeader {
        &self.header
    }

    /// The COSE_Sign1.
    pub fn cose(&self) -> &[u8] {
        &self.bytes[..self.cose_length as usize]
    }

    /// The encoded requests in order.
    pub fn requests(&self) -> impl ExactSizeIterator<Item = &[u8]> + Clone {
        (0..self.ends.len()).map(|index| self.request_bytes(index))
    }

    /// The leaf hash of each request in order: what tells one request from another.
    pub fn request_hashes(&self) -> &[Digest] {
        &self.leaves
    }

    /// The encoded request `index`.
    ///
    /// # Panics
    /// If `index` is not below the header's count.
    pub fn request_bytes(&self, index: usize) -> &[u8] {
        let start = if index == 0 { self.cose_length } else { self.ends[index - 1] };
        &self.bytes[start as usize..self.ends[index] as usize]
    }

    /// All requests, decoded.
    pub fn decoded_requests(&self) -> impl Iterator<Item = Request<'_>> {
        // Each was decoded as a whole when the bundle was parsed.
        self.requests().filter_map(Request::read)
    }

    /// Bytes in memory, with the index of its requests and their hashes.
    pub fn memory(&self) -> usize {
        self.bytes.len() + self.leaves.len() * (size_of::<Digest>() + size_of::<u32>())
    }

    /// Bytes of the COSE_Sign1 and the requests: what the bundle costs in a batch and in the log.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes under the signature: RFC 9052 Sig_structure, empty external data.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let (start, end) = self.payload;
        signature_structure(&self.key, &self.bytes[start as usize..end as usize])
    }

    /// Whether the bundle's entry stays within an entry's limit when its requests make at most `changes` changes in all.
    pub fn fits_entry(&self, changes: usize) -> bool {
        self.size() + ENTRY_OVERHEAD + self.ends.len() * OUTCOME_BYTES + changes * CHANGE_BYTES <= MAX_ENTRY
    }
}

/// A COSE_Sign1 as clients and administrators make it, read in place.
pub(super) struct Cose<'a> {
    pub(super) key: PublicKey,
    pub(super) payload: &'a [u8],
    pub(super) signature: Signature,
}

/// The protected header `{1: -8, 4: kid}`: 38 bytes.
fn protected_header(key: &PublicKey) -> [u8; 38] {
    let mut out = [0; 38];
    // map(2), 1: -8, 4: bytes(32)
    out[..6].copy_from_slice(&[0xa2, 0x01, 0x27, 0x04, 0x58, 0x20]);
    out[6..].copy_from_slice(&key.0);
    out
}

pub(super) fn decode_cose(bytes: &[u8]) -> Result<Cose<'_>, CborError> {
    let reader = &mut Reader::new(bytes);
    if reader.tag()? != COSE_SIGN1 {
        return reader.unexpected();
    }
    reader.array_of(4)?;
    let protected: &[u8; 38] = reader.bytes_of()?;
    let mut key = PublicKey([0; 32]);
    key.0.copy_from_slice(&protected[6..]);
    if *protected != protected_header(&key) || reader.map()? != 0 {
        return reader.unexpected();
    }
    let payload = reader.bytes()?;
    let signature = Signature(*reader.bytes_of()?);
    reader.finish()?;
    Ok(Cose { key, payload, signature })
}

/// The key that a bundle's COSE_Sign1 names, whatever its payload is; `None` where the bytes are none of a bundle.
pub fn signer(cose: &[u8]) -> Option<PublicKey> {
    decode_cose(cose).ok().map(|cose| cose.key)
}

/// What a bundle's COSE_Sign1 says, for whatever cluster; `None` where the bytes are none of a bundle. Nothing is verified.
pub fn signed_header(cose: &[u8]) -> Option<BundleHeader> {
    decode_payload(decode_cose(cose).ok()?.payload).ok().map(|(_, header)| header)
}

pub(super) fn encode_cose(key: &PublicKey, payload: &[u8], signature: &Signature) -> Vec<u8> {
    let mut cose = Vec::with_capacity(payload.len() + 128);
    let mut out = Writer(&mut cose);
    out.tag(COSE_SIGN1).array(4).bytes(&protected_header(key)).map(0).bytes(payload).bytes(&signature.0);
    cose
}

pub(super) fn signature_structure(key: &PublicKey, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(payload.len() + 80);
    Writer(&mut bytes).array(4).text("Signature1").bytes(&protected_header(key)).bytes(&[]).bytes(payload);
    bytes
}

fn encode_payload(origin: &str, header: &BundleHeader) -> Vec<u8> {
    let mut payload = Vec::with_capacity(origin.len() + 96);
    let mut out = Writer(&mut payload);
    out.array(7).text(BUNDLE_FORMAT).text(origin);
    out.optional(header.session, |out, session| {
        out.uint(session);
    });
    out.uint(header.first).uint(u64::from(header.count)).bytes(&header.root.0).int(header.client_time_ms);
    payload
}

fn decode_payload(payload: &[u8]) -> Result<(&str, BundleHeader), CborError> {
    let reader = &mut Reader::new(payload);
    reader.array_of(7)?;
    if reader.text()? != BUNDLE_FORMAT {
        return reader.unexpected();
    }
    let origin = reader.text()?;
    let header = BundleHeader {
        session: reader.optional(Reader::uint)?,
        first: reader.uint()?,
        count: reader.narrow()?,
        root: Digest(reader.bytes32()?),
        client_time_ms: reader.int()?,
    };
    reader.finish()?;
    Ok((origin, header))
}
