//! The management plane as a whole: its threads, from the replica's start to its end.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use atlas_dataplane::cluster::ReplicaConfig;
use atlas_dataplane::flight::file::{LIVE, Mirror, has_failed};
use atlas_dataplane::flight::lines::{Lines, set_level};
use atlas_dataplane::replica::oversight::{Answer, Management, Order, Start};
use atlas_dataplane::{cores, flight};
use glommio::timer::sleep;
use glommio::{LocalExecutorBuilder, Placement};
use rustix::process::{Pid, setpriority_process};
use rustix::thread::gettid;

use crate::accept::{Visitor, accept};
use crate::desk::{Desk, Facts, wall_ms};
use crate::limits::{ERRORS_EVERY, EVENTS, MAX_ACCEPTED, REFRESH};
use crate::log::{self, report};
use crate::mapped::{MappedError, Writer};
use crate::reply::plain;
use crate::ring::{OrderReceiver, OrderSender, ring};
use crate::sockets::{self, Place, SocketError};
use crate::{http, session};

/// Memory that glommio registers with the kernel, bytes: the least that it takes.
const IO_MEMORY: usize = 64 << 10;

/// Entries of each of its three rings.
const RING_DEPTH: usize = 64;

/// How much lower its threads' priority is.
const NICE: i32 = 10;

/// Why a replica has no management plane.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No thread.
    #[error("no thread can be started: {0}; raise the limit of processes (ulimit -u, TasksMax= in the systemd unit)")]
    Thread(std::io::Error),
    /// The directory or its sockets.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The file of metrics.
    #[error(transparent)]
    Mapped(#[from] MappedError),
    /// The executor.
    #[error(
        "its executor cannot use io_uring: {0}; permit it (kernel.io_uring_disabled = 0, no seccomp filter on it) and raise the limit of \
         locked memory to 1 MiB or more (ulimit -l, LimitMEMLOCK= in the systemd unit)"
    )]
    Executor(String),
}

/// Manages one replica: the value that [`run_managed`](atlas_dataplane::replica::process::run_managed) takes. The sockets go with it.
#[derive(Debug)]
pub struct Control {
    file: PathBuf,
    receiver: OrderReceiver,
    sender: Option<OrderSender>,
    ended: Arc<AtomicBool>,
    place: Arc<OnceLock<Place>>,
}

impl Control {
    /// For the replica whose configuration is in `file`.
    pub fn new(file: PathBuf) -> Self {
        let (sender, receiver) = ring();
        Self { file, receiver, sender: Some(sender), ended: Arc::default(), place: Arc::default() }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.ended.store(true, Relaxed);
        if let Some(place) = self.place.get() {
            place.remove_sockets();
            // What remains at an end that was asked for, or after an error, which has its recording already, tells nothing.
            if !std::thread::panicking() && !has_failed() {
                let _ = std::fs::remove_file(place.file(LIVE));
            }
        }
    }
}

impl Management for Control {
    fn begins(&mut self, config: &ReplicaConfig, lines: Lines) {
        set_level(config.control.log_level);
        let format = config.control.log_format;
        let work = move || {
            stand_aside();
            log::print(lines, format);
        };
        if let Err(error) = cores::spawn("log", work) {
            report(&format!(
                "warning: no thread prints lines, what happens while this replica serves is not told: {error}"
            ));
        }
    }

    fn serves(&mut self, start: Start<'_>) {
        let Some(sender) = self.sender.take() else { return };
        self.receiver.set_waker(start.waker.clone());
        let members = start.cluster.members().iter();
        let settings = start.cluster.settings();
        let facts = Facts {
            file: self.file.clone(),
            config: start.config.clone(),
            origin: start.cluster.origin().to_owned(),
            members: members.map(|member| (member.name.clone(), member.address.to_string())).collect(),
            session_limits: (settings.session_window, settings.sessions_per_identity),
        };
        let (board, ended, place) = (Arc::clone(&start.board), Arc::clone(&self.ended), Arc::clone(&self.place));
        let work = move || {
            if let Err(error) = serve(facts, &board, sender, &ended, &place) {
                report(&format!("warning: this replica runs without a management plane: {error}"));
            }
        };
        if let Err(error) = cores::spawn("control", work) {
            let error = StartError::Thread(error);
            report(&format!("warning: this replica runs without a management plane: {error}"));
        }
    }

    fn next_order(&mut self) -> Option<(u64, Order)> {
        self.receiver.take()
    }

    fn answer(&mut self, number: u64, answer: Answer) {
        self.receiver.answer(number, answer);
    }
}

/// The control thread's work, to the end of the process.
fn serve(
    facts: Facts,
    board: &Arc<atlas_dataplane::replica::telemetry::Board>,
    ring: OrderSender,
    ended: &Arc<AtomicBool>,
    place: &OnceLock<Place>,
) -> Result<(), StartError> {
    stand_aside();
    flight::attach("control", EVENTS);
    let executor = LocalExecutorBuilder::new(Placement::Unbound).io_memory(IO_MEMORY).ring_depth(RING_DEPTH).make();
    let executor = executor.map_err(|error| StartError::Executor(error.to_string()))?;
    let sockets = sockets::open(&facts.config.control)?;
    let metrics = sockets.place.file(atlas_dataplane::cluster::control::METRICS_FILE);
    let replica = u64::from(facts.config.replica.0);
    let writer = Writer::create(&metrics, board, replica, wall_ms())?;
    let mirror = mirror(sockets.place.path());
    let (to, visitors) = async_channel::bounded::<Visitor>(MAX_ACCEPTED);
    let (listeners, ends) = (sockets.listeners, Arc::clone(ended));
    let accepts = move || {
        stand_aside();
        accept(&listeners, &to, &ends);
    };
    cores::spawn("control-accept", accepts).map_err(StartError::Thread)?;
    report(&format!("sockets and metrics are in {}", sockets.place.path().display()));
    // Set once: a replica starts once in a process.
    let _ = place.set(sockets.place);
    let listen = facts.config.control.metrics_listen;
    let desk = Desk::new(facts, Arc::clone(board), ring);
    executor.run(async move {
        glommio::spawn_local(refresh(Rc::clone(&desk), writer, mirror)).detach();
        glommio::spawn_local(errors(Rc::clone(&desk))).detach();
        if let Some(address) = listen {
            glommio::spawn_local(http::serve(Rc::clone(&desk), address)).detach();
        }
        while let Ok(visitor) = visitors.recv().await {
            glommio::spawn_local(session::serve(Rc::clone(&desk), visitor)).detach();
        }
    });
    Ok(())
}

/// Leaves the replica its priority. Where the host does not permit it, all works, only less apart.
fn stand_aside() {
    let thread = gettid();
    let _ = setpriority_process(Some(Pid::from_raw(thread.as_raw_nonzero().get()).unwrap_or(thread)), NICE);
}

/// The file of the flight recorder; that of an earlier process that was killed is kept.
fn mirror(directory: &std::path::Path) -> Option<Mirror> {
    match Mirror::create(directory) {
        Ok((mirror, kept)) => {
            if let Some(kept) = kept {
                let kept = kept.display();
                report(&format!(
                    "warning: the last process did not end well; what it did last is in {kept}: `atlas trace` shows it"
                ));
            }
            Some(mirror)
        }
        Err(error) => {
            report(&format!("warning: what the flight recorder holds does not outlive kill -9: {error}"));
            None
        }
    }
}

/// Tells people once that a file cannot be written, and that it can again.
#[derive(Default)]
struct Told(bool);

impl Told {
    fn tell<E: std::fmt::Display>(&mut self, what: &str, result: Result<(), E>) {
        match result {
            Ok(()) if std::mem::take(&mut self.0) => report(&format!("{what} is written again")),
            Err(error) if !std::mem::replace(&mut self.0, true) => {
                report(&format!("warning: {what} stays behind: {error}; tried again"));
            }
            _ => {}
        }
    }
}

/// Keeps the files of metrics and of the flight recorder up to date, and ends trials.
async fn refresh(desk: Rc<Desk>, mut writer: Writer, mut mirror: Option<Mirror>) {
    let (mut metrics, mut flight) = (Told::default(), Told::default());
    loop {
        let heartbeat_ms = desk.get("atlas_heartbeat_timestamp_seconds") / 1_000;
        metrics.tell("the file of metrics", writer.store(&desk.board.values(), heartbeat_ms));
        if let Some(mirror) = &mut mirror {
            flight.tell("the file of the flight recorder", mirror.refresh());
        }
        desk.look_at_stages();
        let over = desk.trial.borrow().is_over(desk.now_us());
        if over {
            match desk.undo().await {
                // The replica did it by itself, and said so.
                Ok(None) => {}
                Ok(Some(changes)) => {
                    for change in changes {
                        let (name, old, new) = (change.name, plain(&change.old), plain(&change.new));
                        report(&format!("{name} is {new} again, and not {old}: the change was not confirmed in time"));
                    }
                }
                // It is tried again at once; the settings on trial stay meanwhile.
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
        sleep(REFRESH).await;
    }
}

async fn errors(desk: Rc<Desk>) {
    loop {
        desk.look_at_errors().await;
        sleep(ERRORS_EVERY).await;
    }
}
