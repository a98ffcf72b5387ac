//! Frames over loopback: sessions and reactors as the replica has them, both ends on this thread, so that each direction's CPU is
//! measured apart; and once with the far end on a thread of its own, to see what waking costs.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use atlas_dataplane::crypto::SecretKey;
use atlas_dataplane::crypto::link::LinkIdentity;
use atlas_dataplane::crypto::session::{Session, frame_bytes};
use atlas_dataplane::net::{ConnectionId, Event, Reactor, ReactorConfig};
use atlas_dataplane::types::{Digest, PublicKey};
use atlas_dataplane::wire::frame::{Kind, Sender};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::costs::{LinkCosts, Transport};
use super::measure::{MeasureError, Times};

/// How long one message may take before the measurement is given up.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bodies that are sent: small, many small ones together, and large ones together.
const SMALL: usize = 80;
const LARGE: usize = 8_192;
const MANY: u64 = 32;
const FEW: u64 = 8;
/// The hello that ends the dialling: its body.
const HELLO: usize = 1;

struct End {
    reactor: Reactor,
    connection: Option<ConnectionId>,
    session: Session,
    body: Vec<u8>,
    frames: u64,
    /// An answer to the handshake, to be sent.
    out: Vec<u8>,
}

impl End {
    fn new(session: Session) -> Result<Self, MeasureError> {
        let reactor = Reactor::new(&ReactorConfig::small())?;
        Ok(Self { reactor, connection: None, session, body: vec![0x5a; LARGE], frames: 0, out: Vec::new() })
    }

    fn queue(&mut self, bytes: usize) -> Result<(), MeasureError> {
        let Self { reactor, connection, session, body, .. } = self;
        let connection = connection.ok_or(MeasureError::Stalled)?;
        let mut sealed = Ok(());
        let queued = reactor.send_with(connection, frame_bytes(bytes), |out| {
            sealed = session.send(Kind::Prepare, out, |out| out.extend_from_slice(&body[..bytes]));
        });
        queued.map_err(|_| MeasureError::Stalled)?;
        Ok(sealed?)
    }

    /// Sleeps until something comes, and takes it.
    fn take(&mut self, timeout: Duration) -> Result<(), MeasureError> {
        self.reactor.wait(Some(timeout))?;
        while let Some(event) = self.reactor.next_event() {
            match event {
                Event::Accepted { connection, .. } => self.connection = Some(connection),
                Event::Received { mut bytes, .. } => {
                    let (session, frames, out) = (&mut self.session, &mut self.frames, &mut self.out);
                    session.receive(
                        &mut bytes,
                        out,
                        |_| Some(Sender::Replica),
                        |_, _, _| {
                            *frames += 1;
                            Ok(())
                        },
                    )?;
                }
                Event::Closed { .. } => return Err(MeasureError::Stalled),
                _ => {}
            }
        }
        self.answer()
    }

    fn answer(&mut self) -> Result<(), MeasureError> {
        if let (Some(connection), false) = (self.connection, self.out.is_empty()) {
            let out = std::mem::take(&mut self.out);
            let queued = self.reactor.send_with(connection, out.len(), |queue| queue.extend_from_slice(&out));
            queued.map_err(|_| MeasureError::Stalled)?;
            self.reactor.submit()?;
        }
        Ok(())
    }

    fn take_until(&mut self, frames: u64) -> Result<(), MeasureError> {
        let start = Instant::now();
        while self.frames < frames {
            if start.elapsed() > PATIENCE {
                return Err(MeasureError::Stalled);
            }
            self.take(PATIENCE)?;
        }
        Ok(())
    }
}

/// The end that dials, and what makes the other one; it lives where it is made.
fn near(address: SocketAddr, expected: PublicKey) -> Result<End, MeasureError> {
    let identity = Arc::new(LinkIdentity::new(SecretKey::generate()?, Digest::NULL)?);
    let mut out = Vec::new();
    let session = Session::initiator(identity, &Digest::NULL, 0, expected, Sender::Replica, &mut out)?;
    let mut end = End::new(session)?;
    end.connection = Some(end.reactor.connect(address)?);
    end.out = out;
    end.answer()?;
    Ok(end)
}

fn far(identity: Arc<LinkIdentity>) -> Result<(End, SocketAddr), MeasureError> {
    let mut end = End::new(Session::responder(identity, &Digest::NULL, 0)?)?;
    let address = end.reactor.listen((Ipv4Addr::LOCALHOST, 0).into())?;
    Ok((end, address))
}

/// Both ends on this thread, linked.
fn pair() -> Result<(End, End), MeasureError> {
    let identity = Arc::new(LinkIdentity::new(SecretKey::generate()?, Digest::NULL)?);
    let (mut far, address) = far(Arc::clone(&identity))?;
    let mut near = near(address, identity.public())?;
    let start = Instant::now();
    while !(near.session.is_established() && far.session.is_established()) {
        if start.elapsed() > PATIENCE {
            return Err(MeasureError::Stalled);
        }
        near.take(Duration::from_millis(1))?;
        far.take(Duration::from_millis(1))?;
    }
    Ok((near, far))
}

/// Sends and takes `frames` of `bytes` together again and again: medians of sending and of receiving, us.
fn together(
    near: &mut End,
    far: &mut End,
    frames: u64,
    bytes: usize,
    budget: Duration,
) -> Result<(f64, f64), MeasureError> {
    let (mut sending, mut receiving) = (Times::default(), Times::default());
    let began = Instant::now();
    while sending.lacks(began, budget) {
        let (start, wanted) = (Instant::now(), far.frames + frames);
        for _ in 0..frames {
            near.queue(bytes)?;
        }
        let (mut sent, mut received) = (start.elapsed(), Duration::ZERO);
        // What is larger than the socket's buffers takes both ends several calls.
        while far.frames < wanted {
            if start.elapsed() > PATIENCE {
                return Err(MeasureError::Stalled);
            }
            let before = Instant::now();
            near.take(Duration::ZERO)?;
            let between = Instant::now();
            far.take(Duration::ZERO)?;
            sent += between - before;
            received += between.elapsed();
        }
        sending.add(sent);
        receiving.add(received);
    }
    Ok((sending.median(), receiving.median()))
}

/// Keeps this thread on one of the cores that it may use, where there are several and the system lets it.
fn keep_to(place: usize) {
    let Ok(all) = sched_getaffinity(None) else { return };
    let mut cores = (0..CpuSet::MAX_CPU).filter(|core| all.is_set(*core));
    if let Some(core) = cores.nth(place) {
        let mut one = CpuSet::new();
        one.set(core);
        // Where it is refused both may share a core: a hop is then cheaper than one across.
        let _ = sched_setaffinity(None, &one);
    }
}

/// Half a round trip between two sleeping threads, on two cores where there are two, us.
fn hop(budget: Duration) -> Result<f64, MeasureError> {
    let identity = Arc::new(LinkIdentity::new(SecretKey::generate()?, Digest::NULL)?);
    let expected = identity.public();
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    thread::scope(|scope| {
        // A reactor stays on its thread, so the far end is made there.
        let echo = scope.spawn(move || -> Result<(), MeasureError> {
            keep_to(0);
            let (mut end, address) = far(identity)?;
            tell.send(address).map_err(|_| MeasureError::Stalled)?;
            let mut echoed = 0;
            loop {
                // The near end closes when it has seen enough.
                if end.take(PATIENCE).is_err() {
                    return Ok(());
                }
                while echoed < end.frames {
                    echoed += 1;
                    end.queue(SMALL)?;
                }
            }
        });
        let asks = scope.spawn(move || -> Result<f64, MeasureError> {
            keep_to(1);
            let address = told.recv_timeout(PATIENCE).map_err(|_| MeasureError::Stalled)?;
            let mut end = near(address, expected)?;
            let start = Instant::now();
            while !end.session.is_established() && start.elapsed() < PATIENCE {
                end.take(PATIENCE)?;
            }
            end.queue(HELLO)?;
            end.take_until(1)?;
            let (mut times, began) = (Times::default(), Instant::now());
            while times.lacks(began, budget) {
                let start = Instant::now();
                end.queue(SMALL)?;
                end.take_until(end.frames + 1)?;
                times.add(start.elapsed());
            }
            Ok(times.median() / 2.0)
        });
        let measured = asks.join().map_err(|_| MeasureError::Stalled)?;
        echo.join().map_err(|_| MeasureError::Stalled)??;
        measured
    })
}

/// Measures for about `budget`.
pub(super) fn measure(budget: Duration) -> Result<LinkCosts, MeasureError> {
    let share = budget / 4;
    let (mut near, mut far) = pair()?;
    let one = together(&mut near, &mut far, 1, SMALL, share)?;
    let many = together(&mut near, &mut far, MANY, SMALL, share)?;
    let large = together(&mut near, &mut far, FEW, LARGE, share)?;
    drop((near, far));
    let hop_us = hop(share)?;
    Ok(LinkCosts { send: transport(one.0, many.0, large.0), receive: transport(one.1, many.1, large.1), hop_us })
}

/// A line through the three measurements.
pub(super) fn transport(one: f64, many: f64, large: f64) -> Transport {
    let frame_us = ((many - one) / (MANY - 1) as f64).max(0.0);
    let call_us = (one - frame_us).max(0.0);
    let bytes = FEW as f64 * (LARGE - SMALL) as f64;
    let byte_us = ((large - call_us - FEW as f64 * frame_us) / bytes).max(0.0);
    Transport { call_us, frame_us, byte_us }
}
