//! The network between hosts: connections as TCP gives them, over links that are slow, cut, or forget.
//!
//! What a host sends in one quantum of time arrives in a later one, so the order in which hosts are stepped decides
//! nothing that a real network would not. A cut link holds what is sent, as retransmission would; a machine without
//! power answers nothing; a machine whose process died answers with a reset. A name leads to a machine as the
//! connecting host's resolver has it, which may be another than the one that bears the name.

mod stream;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use foreword_seams::{Endpoint, Incoming, Net, Stream};
use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::context::{self, Kind, SimTime};
use stream::SimStream;

/// Number of a host in its world.
pub type HostId = u16;

/// Bytes on their way in one direction of a connection before its writer waits.
const WINDOW_BYTES: usize = 256 << 10;
/// Bytes of one parcel.
const PARCEL_BYTES_MAX: usize = 64 << 10;
/// After a link is mended, what it held comes within this time: retransmission backs off.
const RETRANSMIT: Duration = Duration::from_millis(200);
/// Ports given to those who ask for any.
const FIRST_FREE_PORT: u16 = 40_000;

/// One direction between two hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    pub latency_us_min: u64,
    pub latency_us_max: u64,
    /// Nothing arrives: what is sent is held until the link is mended.
    pub cut: bool,
}

impl Default for Link {
    fn default() -> Self {
        Self { latency_us_min: 300, latency_us_max: 1_500, cut: false }
    }
}

/// What the network did, over a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NetCounts {
    pub parcels: u64,
    pub bytes: u64,
    pub connections: u64,
    pub resets: u64,
    pub refused: u64,
    /// Parcels that met a cut link.
    pub held: u64,
    /// Connections that a stale resolver led to another machine than the name's.
    pub misled: u64,
}

/// Index of one end of a connection: 0 opened it, 1 accepted it.
type Side = usize;

#[derive(Debug, Clone)]
enum Parcel {
    /// Asks the port's listener for a connection.
    Syn(u16),
    Accepted,
    Data(Bytes),
    Fin,
    Reset,
}

impl Parcel {
    fn number(&self) -> u64 {
        match self {
            Self::Syn(_) => 1,
            Self::Accepted => 2,
            Self::Data(_) => 3,
            Self::Fin => 4,
            Self::Reset => 5,
        }
    }
}

struct Flight {
    connection: u64,
    to: Side,
    parcel: Parcel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EndState {
    /// Waits for the answer to its Syn.
    Opening,
    Open,
    /// Its stream was dropped, or its process is gone.
    Gone,
}

struct End {
    host: HostId,
    state: EndState,
    inbox: VecDeque<Bytes>,
    /// The other end will send no more.
    finished: bool,
    reset: bool,
    /// Sent by this end, and not yet read by the other.
    unread: usize,
    /// When the last parcel sent by this end arrives; the next is not faster.
    last_arrival: SimTime,
    /// Sent by this end, held by a cut link.
    held: VecDeque<Parcel>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl End {
    fn new(host: HostId, state: EndState) -> Self {
        Self {
            host,
            state,
            inbox: VecDeque::new(),
            finished: false,
            reset: false,
            unread: 0,
            last_arrival: SimTime::default(),
            held: VecDeque::new(),
            reader: None,
            writer: None,
        }
    }

    fn wake(&mut self, wakers: &mut Vec<Waker>) {
        wakers.extend(self.reader.take());
        wakers.extend(self.writer.take());
    }
}

struct Machine {
    name: String,
    powered: bool,
    /// None: nothing listens there yet, or its process is gone.
    listeners: BTreeMap<u16, Listener>,
}

#[derive(Default)]
struct Listener {
    arrived: VecDeque<u64>,
    waker: Option<Waker>,
}

#[derive(Default)]
struct Inner {
    machines: Vec<Machine>,
    connections: BTreeMap<u64, [End; 2]>,
    connections_ever: u64,
    flights: BTreeMap<(SimTime, u64), Flight>,
    flights_ever: u64,
    links: BTreeMap<(HostId, HostId), Link>,
    /// Names that lead to another machine than the one that was added under them.
    names: BTreeMap<String, HostId>,
    stale: StaleNames,
    counts: NetCounts,
    /// The data parcel whose first byte is changed on its way, counted from 1.
    damaged_parcel: Option<u64>,
}

/// Where a host's resolver leads a name, if not where it should.
pub type StaleNames = BTreeMap<(HostId, String), HostId>;

/// The network of a world; clones are the same one.
#[derive(Clone, Default)]
pub struct Network(Arc<Mutex<Inner>>);

impl Network {
    /// Adds a machine, reachable under its name; hosts are numbered from 0 in this order.
    pub fn add(&self, name: &str) -> HostId {
        let mut inner = self.0.lock();
        inner.machines.push(Machine { name: name.to_owned(), powered: true, listeners: BTreeMap::new() });
        (inner.machines.len() - 1) as HostId
    }

    /// The network as processes of this host have it.
    pub fn of(&self, host: HostId) -> Arc<dyn Net> {
        Arc::new(HostNet { network: self.clone(), host })
    }

    /// What it did so far.
    pub fn counts(&self) -> NetCounts {
        self.0.lock().counts
    }

    /// Changes the first byte of that data parcel (the first is 1), as a test of the trace's digest.
    pub fn damage_parcel(&self, number: u64) {
        self.0.lock().damaged_parcel = Some(number);
    }

    /// From now on the name leads to this machine, for everyone whose resolver is not stale.
    pub fn give_name(&self, name: &str, host: HostId) {
        self.0.lock().names.insert(name.to_owned(), host);
    }

    /// What the hosts' resolvers have wrong from now on. Connections that are open stay open.
    pub fn set_stale_names(&self, stale: StaleNames) {
        self.0.lock().stale = stale;
    }

    /// The machine that a name leads to, for everyone whose resolver is not stale.
    pub fn host_of(&self, name: &str) -> Option<HostId> {
        self.0.lock().bears(name)
    }

    /// One direction's state.
    pub fn link(&self, from: HostId, to: HostId) -> Link {
        self.0.lock().links.get(&(from, to)).copied().unwrap_or_default()
    }

    /// Changes one direction. Mending a cut link lets go what it held.
    pub fn set_link(&self, from: HostId, to: HostId, link: Link) {
        let mut inner = self.0.lock();
        let before = inner.links.insert((from, to), link).unwrap_or_default();
        if before.cut && !link.cut {
            inner.release(from, to);
        }
    }

    /// Resets every connection between two hosts, as a middlebox that lost its table does.
    pub fn reset_between(&self, a: HostId, b: HostId) -> usize {
        let mut wakers = Vec::new();
        let reset = {
            let mut inner = self.0.lock();
            let between = |ends: &[End; 2]| {
                let hosts = [ends[0].host, ends[1].host];
                hosts == [a, b] || hosts == [b, a]
            };
            let numbers: Vec<u64> = inner.connections.iter().filter(|(_, e)| between(e)).map(|(n, _)| *n).collect();
            for number in &numbers {
                for side in 0..2 {
                    inner.reset(*number, side, &mut wakers);
                }
            }
            numbers.len()
        };
        wakers.into_iter().for_each(Waker::wake);
        reset
    }

    /// The process on a host is gone. With power its peers hear of it; without they hear nothing.
    pub fn process_gone(&self, host: HostId, powered: bool) {
        let mut inner = self.0.lock();
        let machine = &mut inner.machines[usize::from(host)];
        machine.powered = powered;
        machine.listeners.clear();
        let mine = |(number, ends): (&u64, &[End; 2])| {
            let sides = (0..2).filter(|side| ends[*side].host == host && ends[*side].state != EndState::Gone);
            sides.map(|side| (*number, side)).collect::<Vec<_>>()
        };
        let ends: Vec<(u64, Side)> = inner.connections.iter().flat_map(mine).collect();
        for (number, side) in ends {
            if let Some(ends) = inner.connections.get_mut(&number) {
                let end = &mut ends[side];
                end.state = EndState::Gone;
                (end.reader, end.writer) = (None, None);
                end.inbox.clear();
            }
            if powered {
                inner.send(number, side, Parcel::Reset);
            }
        }
    }

    /// The machine has power again.
    pub fn power_on(&self, host: HostId) {
        self.0.lock().machines[usize::from(host)].powered = true;
    }

    /// Delivers what is due.
    pub fn deliver(&self) {
        let now = context::now();
        let mut wakers = Vec::new();
        {
            let mut inner = self.0.lock();
            while let Some(first) = inner.flights.first_entry().filter(|flight| flight.key().0 <= now) {
                let flight = first.remove();
                inner.arrive(flight, &mut wakers);
            }
        }
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Inner {
    /// The machine that a name leads to.
    fn bears(&self, name: &str) -> Option<HostId> {
        let added = || self.machines.iter().position(|machine| machine.name == name).map(|host| host as HostId);
        self.names.get(name).copied().or_else(added)
    }

    /// The machine that a name leads to for this host.
    fn resolve(&mut self, from: HostId, name: &str) -> Option<HostId> {
        let misled = self.stale.get(&(from, name.to_owned())).copied();
        self.counts.misled += u64::from(misled.is_some());
        misled.or_else(|| self.bears(name))
    }

    fn link(&self, from: HostId, to: HostId) -> Link {
        self.links.get(&(from, to)).copied().unwrap_or_default()
    }

    /// Sends from one end to the other: it arrives after the link's latency, in order.
    fn send(&mut self, number: u64, from: Side, parcel: Parcel) {
        let Some(ends) = self.connections.get(&number) else { return };
        let link = self.link(ends[from].host, ends[1 - from].host);
        let spread = link.latency_us_max.saturating_sub(link.latency_us_min);
        let latency_us = link.latency_us_min + context::random_below(spread + 1);
        self.schedule(number, from, parcel, Duration::from_micros(latency_us));
    }

    fn schedule(&mut self, number: u64, from: Side, parcel: Parcel, latency: Duration) {
        let Some(ends) = self.connections.get_mut(&number) else { return };
        let end = &mut ends[from];
        // A parcel arrives in a later quantum than it was sent in: time moves on by at least one before the next
        // delivery.
        let due = (context::now() + latency).max(end.last_arrival);
        end.last_arrival = due;
        self.flights_ever += 1;
        self.flights.insert((due, self.flights_ever), Flight { connection: number, to: 1 - from, parcel });
    }

    fn release(&mut self, from: HostId, to: HostId) {
        let mut held = Vec::new();
        for (number, ends) in &mut self.connections {
            for side in 0..2 {
                if ends[side].host == from && ends[1 - side].host == to && !ends[side].held.is_empty() {
                    held.push((*number, side, std::mem::take(&mut ends[side].held)));
                }
            }
        }
        for (number, side, mut parcels) in held {
            // What was sent meanwhile and is on its way still must not pass what was held.
            parcels.extend(self.recall(number, 1 - side));
            let backoff = Duration::from_micros(context::random_below(RETRANSMIT.as_micros() as u64));
            for parcel in parcels {
                self.schedule(number, side, parcel, backoff);
            }
        }
    }

    /// Takes back what is on its way to one end of a connection, in order.
    fn recall(&mut self, connection: u64, to: Side) -> Vec<Parcel> {
        let to_it = |flight: &Flight| flight.connection == connection && flight.to == to;
        let due: Vec<_> = self.flights.iter().filter(|(_, flight)| to_it(flight)).map(|(due, _)| *due).collect();
        due.iter().filter_map(|due| self.flights.remove(due)).map(|flight| flight.parcel).collect()
    }

    fn arrive(&mut self, flight: Flight, wakers: &mut Vec<Waker>) {
        let Flight { connection, to, mut parcel } = flight;
        let Some(ends) = self.connections.get_mut(&connection) else { return };
        let (from_host, to_host) = (ends[1 - to].host, ends[to].host);
        if self.links.get(&(from_host, to_host)).is_some_and(|link| link.cut) || !ends[1 - to].held.is_empty() {
            ends[1 - to].held.push_back(parcel);
            self.counts.held += 1;
            return;
        }
        if let Parcel::Data(bytes) = &mut parcel {
            self.counts.parcels += 1;
            self.counts.bytes += bytes.len() as u64;
            if self.damaged_parcel == Some(self.counts.parcels) && !bytes.is_empty() {
                let mut damaged = bytes.to_vec();
                damaged[0] ^= 1;
                *bytes = damaged.into();
            }
        }
        let payload: &[u8] = if let Parcel::Data(bytes) = &parcel { bytes } else { &[] };
        context::digest(Kind::Net, &[connection, to as u64, parcel.number()], payload);
        if !self.machines[usize::from(to_host)].powered {
            return;
        }
        match parcel {
            Parcel::Syn(port) => self.connect_arrives(connection, port, to_host, wakers),
            Parcel::Reset => self.reset(connection, to, wakers),
            parcel => self.receive(connection, to, parcel, wakers),
        }
    }

    fn connect_arrives(&mut self, connection: u64, port: u16, host: HostId, wakers: &mut Vec<Waker>) {
        match self.machines[usize::from(host)].listeners.get_mut(&port) {
            None => {
                self.counts.refused += 1;
                self.send(connection, 1, Parcel::Reset);
            }
            Some(listener) => {
                listener.arrived.push_back(connection);
                wakers.extend(listener.waker.take());
                if let Some(ends) = self.connections.get_mut(&connection) {
                    ends[1].state = EndState::Open;
                }
                self.send(connection, 1, Parcel::Accepted);
            }
        }
    }

    fn receive(&mut self, connection: u64, to: Side, parcel: Parcel, wakers: &mut Vec<Waker>) {
        let Some(ends) = self.connections.get_mut(&connection) else { return };
        let end = &mut ends[to];
        if end.state == EndState::Gone {
            // Nobody is there to read it: the sender hears so.
            if !matches!(parcel, Parcel::Fin) {
                self.send(connection, to, Parcel::Reset);
            }
            return;
        }
        match parcel {
            Parcel::Accepted => end.state = EndState::Open,
            Parcel::Data(bytes) => end.inbox.push_back(bytes),
            Parcel::Fin => end.finished = true,
            Parcel::Syn(_) | Parcel::Reset => unreachable!("handled by the caller"),
        }
        end.wake(wakers);
        self.forget_if_over(connection);
    }

    fn reset(&mut self, connection: u64, side: Side, wakers: &mut Vec<Waker>) {
        let Some(ends) = self.connections.get_mut(&connection) else { return };
        let end = &mut ends[side];
        if !end.reset {
            end.reset = true;
            self.counts.resets += 1;
            end.wake(wakers);
        }
        self.forget_if_over(connection);
    }

    /// A connection that neither side holds is forgotten, but for one whose other side a message may still reach.
    fn forget_if_over(&mut self, connection: u64) {
        let Some(ends) = self.connections.get(&connection) else { return };
        if ends.iter().all(|end| end.state == EndState::Gone) {
            self.connections.remove(&connection);
        }
    }
}

struct HostNet {
    network: Network,
    host: HostId,
}

fn parse(endpoint: &Endpoint) -> io::Result<(String, u16)> {
    let bad = || io::Error::new(io::ErrorKind::InvalidInput, format!("{endpoint} is no address of a simulated host"));
    let Endpoint::Tcp(address) = endpoint else { return Err(bad()) };
    let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
    Ok((host.to_owned(), port.parse().map_err(|_| bad())?))
}

impl Net for HostNet {
    fn connect(&self, endpoint: &Endpoint) -> BoxFuture<'static, io::Result<Stream>> {
        let (network, host, endpoint) = (self.network.clone(), self.host, endpoint.clone());
        Box::pin(async move {
            let (name, port) = parse(&endpoint)?;
            let stream = {
                let mut inner = network.0.lock();
                let Some(to) = inner.resolve(host, &name) else {
                    return Err(io::Error::new(io::ErrorKind::NotFound, format!("no host is called {name}")));
                };
                inner.connections_ever += 1;
                inner.counts.connections += 1;
                let number = inner.connections_ever;
                let ends = [End::new(host, EndState::Opening), End::new(to, EndState::Gone)];
                inner.connections.insert(number, ends);
                inner.send(number, 0, Parcel::Syn(port));
                SimStream::new(network.clone(), number, 0)
            };
            stream.opened().await?;
            Ok(Stream::new(stream))
        })
    }

    fn listen(&self, endpoint: &Endpoint) -> BoxFuture<'static, io::Result<(Incoming, Endpoint)>> {
        let (network, host, endpoint) = (self.network.clone(), self.host, endpoint.clone());
        Box::pin(async move {
            let (name, port) = parse(&endpoint)?;
            let port = {
                let mut inner = network.0.lock();
                let machine = &mut inner.machines[usize::from(host)];
                let port = match port {
                    0 => (FIRST_FREE_PORT..).find(|port| !machine.listeners.contains_key(port)).unwrap_or(0),
                    port => port,
                };
                if machine.listeners.insert(port, Listener::default()).is_some() {
                    return Err(io::ErrorKind::AddrInUse.into());
                }
                port
            };
            let incoming = futures::stream::poll_fn(move |cx| {
                let mut inner = network.0.lock();
                // The process was replaced: this listener is a dead one's.
                let Some(listener) = inner.machines[usize::from(host)].listeners.get_mut(&port) else {
                    return Poll::Ready(None);
                };
                match listener.arrived.pop_front() {
                    Some(number) => {
                        drop(inner);
                        Poll::Ready(Some(Ok(Stream::new(SimStream::new(network.clone(), number, 1)))))
                    }
                    None => {
                        listener.waker = Some(cx.waker().clone());
                        Poll::Pending
                    }
                }
            });
            Ok((Box::pin(incoming) as Incoming, Endpoint::Tcp(format!("{name}:{port}"))))
        })
    }
}
