//! One engine, with simulated connections and a simulated disk.

use super::*;
use crate::capture::engine::Notice;
use crate::config::{Prefer, Replication};
use crate::event::GapCause;
use crate::logs::LogCode;
use crate::source::replication::ReplicationOffset;

/// A connection to the destination.
#[derive(Debug, Default)]
pub(super) struct DriverLink {
    pub(super) requests: VecDeque<Vec<u8>>,
    pub(super) replies: VecDeque<Value>,
    /// While two servers claim to be the master: true if it talks to the one that is given up.
    pub(super) with_the_old: bool,
}

/// A route of a process.
#[derive(Debug)]
pub(super) struct Driver {
    pub(super) engine: Engine,
    pub(super) configuration: u64,
    /// The channel to a successor.
    pub(super) handover: Handover,
    pub(super) stopping: bool,
    /// The open window's place in the source's messages.
    window: Option<usize>,
    /// It took over from a route of the same process.
    pub(super) took_over: bool,
    /// A window that is asked for, with its anchor and the lowest epoch.
    asked: Option<(AnchorId, u64)>,
    /// The anchor of a window that the source has opened, and where it begins. The route has not heard of it yet.
    coming: Option<(Epoch, usize)>,
    /// A replication link that is asked for, and where.
    linking: Option<Option<ReplicationOffset>>,
    /// The begin of a window that is open and not read.
    opened: Option<usize>,
    /// It reads a server that is no longer the source's master, which had sent so much until then.
    pub(super) left_behind: Option<usize>,
    /// The connection of the open window delivers nothing for now.
    pub(super) stalled: bool,
    /// The fence is behind this number of the source's messages.
    fence: Option<usize>,
    /// A connection that is asked for.
    connecting: Option<Option<RankedRevision>>,
    pub(super) link: Option<DriverLink>,
    pub(super) log: Option<Log<MemoryDisk>>,
    /// The content of the log, as seen from outside.
    pub(super) spooled: Spooled,
    pub(super) request: Option<SpoolRequest>,
    /// Messages that this process has received, or has found in its spool.
    pub(super) received: BTreeSet<u64>,
    /// Since when the state has stood before where this route knew it to be; by the clock of its instance.
    pub(super) fell_unix_ms: Option<u64>,
    /// The begins of the sessions that this route has opened after its first one.
    sessions: Vec<String>,
    opened_before: bool,
    /// How many of them the routes have given up that this one replaced.
    pub(super) dropped_before: u64,
}

impl Driver {
    pub(super) fn new(
        world: &World,
        number: usize,
        configuration: u64,
        predecessor: Option<(Handover, bool)>,
        now: Moment,
    ) -> Self {
        let quota = MemoryQuota::default();
        quota.set(SHARES[usize::from(world.roomy)]);
        let (mode, counts) = if world.replicated {
            let replication =
                Replication { prefer: Prefer::Master, sharded: false, min_backlog_cover: Duration::ZERO };
            (Mode::Replication(replication), "offsets".to_owned())
        } else {
            (Mode::Subscribe, format!("{:016x}", numbering(configuration)))
        };
        let settings = EngineSettings {
            capture: Arc::new(settings(if world.templated { "s:<channel>" } else { "s" }, mode)),
            keys: world.keys.clone(),
            numbering: counts,
            source: "a source".to_owned(),
            source_moves: world.sentinels,
            epoch_key: "t:epoch".to_owned(),
            destination: "a destination".to_owned(),
            durability: Durability::Applied,
            instance: format!("i{number}"),
            beat: HeartbeatClock { instance: number as u64, epoch: world.base },
            force_after: FORCE_AFTER,
            drain_deadline: Duration::from_secs(2),
            response_timeout: Duration::from_secs(5),
            quota,
        };
        let (handover, took_over) = (Handover::default(), predecessor.is_some());
        let engine = Engine::new(settings, world.counters.clone(), predecessor, handover.clone(), now);
        Self {
            engine,
            configuration,
            handover,
            stopping: false,
            window: None,
            took_over,
            asked: None,
            coming: None,
            linking: None,
            opened: None,
            left_behind: None,
            stalled: false,
            fence: None,
            connecting: None,
            link: None,
            log: None,
            spooled: Spooled::default(),
            request: None,
            received: BTreeSet::new(),
            dropped_before: 0,
            fell_unix_ms: None,
            sessions: Vec::new(),
            opened_before: false,
        }
    }

    /// Notes whether the state has gone back, or on.
    fn learn_position(&mut self, before: Option<Position>, now: Moment) {
        let position = self.engine.view(now).position;
        if position < before {
            self.fell_unix_ms.get_or_insert(now.unix_ms);
        } else if position > before {
            self.fell_unix_ms = None;
        }
    }

    /// A gap's log line is true.
    fn check_notice(&mut self, notice: &Notice, clock_set: bool) {
        let place = notice.position.clone().unwrap_or_default();
        if notice.event == LogCode::SessionOpened && std::mem::replace(&mut self.opened_before, true) {
            self.sessions.push(place);
        } else if notice.event == LogCode::Gap {
            if notice.cause == Some(GapCause::Restart.as_str()) {
                assert!(!self.sessions.contains(&place), "tidegate was running: {notice:?}");
            } else if notice.cause == Some(GapCause::DestinationWentBack.as_str()) {
                let began = notice.span.unwrap().0;
                let fell = self.fell_unix_ms.filter(|_| !clock_set);
                assert!(fell.is_none_or(|fell| began <= fell), "the state went back at {fell:?}: {notice:?}");
            }
        }
    }

    /// The server that it reads is no longer the source's master.
    pub(super) fn leave_behind(&mut self, end: usize, now: Moment) {
        self.left_behind = self.left_behind.or(self.window.map(|_| end));
        if self.coming.take().is_some() {
            // Its anchor was published there. The next window has an anchor of its own.
            self.engine.on_not_opened(&Error::Closed, now);
        }
    }

    /// Returns whether nothing is open on the source's master that delivers, or is about to be.
    pub(super) fn is_deaf(&self) -> bool {
        (self.window.is_none() || self.left_behind.is_some() || self.stalled)
            && self.coming.is_none()
            && self.opened.is_none()
    }

    /// Returns whether its window is open and has reached the end of the source's messages.
    pub(super) fn is_at(&self, end: usize) -> bool {
        self.window == Some(end)
    }
}

impl World {
    fn route(&mut self, which: usize, route: usize) -> &mut Driver {
        &mut self.instances[which].routes[route]
    }

    /// Does what an engine wants.
    pub(super) fn drive(&mut self, which: usize, route: usize) {
        let now = self.now(which);
        let engine = &mut self.route(which, route).engine;
        engine.after(now);
        assert!(!(engine.reads() && engine.is_full()), "instance {which} reads although it has no room");
        if engine.is_out_of_room() {
            // A batch was larger than the remaining room.
            self.gentle = false;
        }
        self.perform(which, route);
        let one = self.route(which, route);
        let mut out = Vec::new();
        one.engine.transmit(&mut out, 0, now);
        if let Some(link) = &mut one.link {
            link.requests.extend(commands(&out));
        } else {
            assert!(out.is_empty(), "what is written has a connection");
        }
        if one.request.is_none() && one.log.is_some() {
            one.request = one.engine.spool_request(now);
        }
        self.perform(which, route);
    }

    fn perform(&mut self, which: usize, route: usize) {
        while let Some(effect) = self.route(which, route).engine.next_effect() {
            let end = self.source.sent.len();
            let one = &mut self.instances[which];
            let (windows, lines) = (&mut one.windows, &mut one.lines);
            let one = &mut one.routes[route];
            match effect {
                Effect::Connect(revision) => one.connecting = Some(revision),
                Effect::Disconnect => {
                    one.connecting = None;
                    self.drop_link(which, route);
                }
                Effect::OpenWindow { anchor, floor } => {
                    *windows += 1;
                    one.asked = Some((anchor, floor));
                }
                Effect::OpenLink(place) => {
                    *windows += 1;
                    one.linking = Some(place);
                }
                Effect::Adopt | Effect::Tap => {
                    one.window = Some(one.opened.take().expect("one is open"));
                    (one.left_behind, one.stalled) = (None, false);
                }
                Effect::DropOpening => {
                    (one.asked, one.coming, one.linking, one.opened) = (None, None, None, None);
                }
                Effect::Close => {
                    (one.window, one.fence, one.left_behind, one.stalled) = (None, None, None, false);
                }
                Effect::Fence => one.fence = Some(end),
                Effect::Read => {}
                Effect::Log(notice) => {
                    *lines += 1;
                    one.check_notice(&notice, self.clock_set);
                    self.tell(|| {
                        format!(
                            "i{which}.{route} {}: {} {:?}",
                            notice.event.as_str(),
                            notice.text,
                            notice.position
                        )
                    });
                }
            }
        }
    }

    /// Time is given to an engine.
    pub(super) fn tick_route(&mut self, which: usize, route: usize) {
        let (now, report) = (self.now(which), self.heartbeat_report(which));
        let one = self.route(which, route);
        one.engine.on_heartbeat_task(report);
        one.engine.on_tick(now);
        self.drive(which, route);
    }

    /// The source answers a window that is asked for.
    pub(super) fn open(&mut self, which: usize, route: usize) {
        let (now, report) = (self.now(which), self.heartbeat_report(which));
        let refused = self.instances[which].no_source;
        if self.instances[which].left_behind {
            // It connects to a server that it is about to leave.
            return;
        }
        let one = self.route(which, route);
        let (asked, linking, coming) = (one.asked, one.linking.clone(), one.coming);
        if self.source.stalled || (asked.is_none() && linking.is_none() && coming.is_none()) {
            return;
        }
        let one = self.route(which, route);
        (one.asked, one.linking, one.coming) = (None, None, None);
        if refused {
            one.engine.on_not_opened(&Error::Closed, now);
        } else if let Some((epoch, end)) = coming {
            one.opened = Some(end);
            one.engine.on_heartbeat_task(report);
            one.engine.on_opened(epoch.at(0), now);
        } else if let Some(place) = linking {
            let linked = self.source.link(place.as_ref());
            let one = self.route(which, route);
            one.opened = Some(usize::try_from(linked.offset).unwrap());
            one.engine.on_linked(linked, now);
        } else if let Some((anchor, floor)) = asked {
            // Others may read the anchor before this route hears that its window is open.
            let epoch = self.source.anchor(floor, anchor);
            self.route(which, route).coming = Some((epoch, self.source.sent.len()));
            return;
        }
        self.drive(which, route);
    }

    pub(super) fn lose_window(&mut self, which: usize, route: usize) {
        let now = self.now(which);
        if self.route(which, route).window.is_some() {
            let lost = Lost::Disconnected;
            self.route(which, route).engine.on_lost(lost, "a test", now);
            self.drive(which, route);
        }
    }

    /// A connection ends that is open and not read.
    pub(super) fn lose_opened(&mut self, which: usize, route: usize) {
        let now = self.now(which);
        let one = self.route(which, route);
        if one.opened.take().is_some() {
            one.engine.on_not_opened(&Error::Closed, now);
            self.drive(which, route);
        }
    }

    /// Reads some of the source's messages.
    pub(super) fn read_source(&mut self, which: usize, route: usize, most: usize) {
        let (now, gentle, stalled) = (self.now(which), self.gentle, self.source.stalled);
        let now_ms = self.now_ms;
        let Self { instances, source, replicated, .. } = self;
        let one = &mut instances[which].routes[route];
        let numbering = numbering(one.configuration);
        if stalled || one.stalled || !one.engine.reads() || (gentle && one.engine.is_nearly_full()) {
            // The disk is slower here than any is: the socket's buffer waits for it.
            return;
        }
        let Some(mut at) = one.window else { return };
        let end = one.left_behind.unwrap_or(source.sent.len());
        if one.left_behind.is_some() && at >= end {
            // Nobody publishes there but the heartbeat.
            let mut pass = one.engine.begin_read(now);
            let beat = Item::Heartbeat { instance: which as u64, sent_us: now_ms * 1_000 };
            let item = if one.fence.is_some() { Item::Fence } else { beat };
            let flow = one.engine.take(&mut pass, &item);
            one.engine.end_read(&pass, flow, None, now);
            return self.drive(which, route);
        }
        if at == source.sent.len() && one.fence != Some(at) {
            return;
        }
        let mut pass = one.engine.begin_read(now);
        let mut flow = Flow::Go;
        for _ in 0..most {
            if gentle && one.engine.is_nearly_full() {
                break;
            }
            if one.fence == Some(at) {
                flow = one.engine.take(&mut pass, &Item::Fence);
                break;
            }
            let Some(sent) = source.sent[..end].get(at).copied() else { break };
            at += 1;
            flow = match sent {
                SourceMessage::Anchor(epoch) => {
                    one.engine.take(&mut pass, &Item::Anchor { epoch, offset: at as u64 })
                }
                SourceMessage::Heartbeat(instance, sent_ms) => {
                    let beat = Item::Heartbeat { instance, sent_us: sent_ms * 1_000 };
                    one.engine.take(&mut pass, &beat)
                }
                SourceMessage::Message(number) if !subscribes(numbering, number) => Flow::Go,
                SourceMessage::Message(number) => {
                    one.received.insert(number);
                    let (channel, payload) = (channel(number), number.to_string());
                    let message = Message {
                        channel: channel.as_bytes(),
                        pattern: Some(b"c*"),
                        payload: payload.as_bytes(),
                    };
                    // Some are over the limit.
                    let size = if number % 29 == 5 { 1 << 20 } else { payload.len() };
                    let offset = at as u64;
                    let item = if number % 31 == 7 {
                        Item::LongNamed { message, channel_size: 2 << 20, size, offset }
                    } else {
                        Item::Message { message, size, offset }
                    };
                    one.engine.take(&mut pass, &item)
                }
            };
            if !matches!(flow, Flow::Go) {
                break;
            }
        }
        one.window = Some(at);
        one.engine.end_read(&pass, flow, replicated.then_some(at as u64), now);
        self.drive(which, route);
    }

    /// The destination answers a connection that is asked for.
    pub(super) fn connect(&mut self, which: usize, route: usize) {
        let now = self.now(which);
        let Some(revision) = self.route(which, route).connecting.clone() else { return };
        let refused = self.refused(destination::Call::Connect);
        self.route(which, route).connecting = None;
        if self.instances[which].no_destination || refused.is_some() {
            let error = refused.map_or(Error::Closed, |text| Error::reply(text.as_bytes()));
            self.route(which, route).engine.on_disconnected(&error, now);
            return self.drive(which, route);
        }
        let state = StoredState::read(&self.model.state_reply()).unwrap();
        let before = self.route(which, route).engine.view(now).position;
        let (hash, history) = (self.hash, self.history);
        let (keys, replicated) = (self.keys.clone(), self.replicated);
        let one = self.route(which, route);
        let revision =
            revision.unwrap_or_else(|| RankedRevision::after(&state, &hashes(one.configuration, replicated)));
        let append = Append::new(hash, keys, revision.to_string());
        let scripts = Scripts { append, lease: [b'1'; 40], epochs: history };
        one.link = Some(DriverLink::default());
        one.engine.on_connected(Connected { scripts, state, revision }, now);
        self.drive(which, route);
        self.route(which, route).learn_position(before, now);
    }

    /// The connection breaks. Sent bytes may have arrived, up to any byte; no answer comes back.
    pub(super) fn drop_link(&mut self, which: usize, route: usize) {
        if let Some(link) = &self.route(which, route).link {
            let lengths: Vec<usize> = link.requests.iter().map(Vec::len).collect();
            let all: usize = lengths.iter().sum();
            let mut arrived = self.rng.usize(..=all);
            for length in lengths {
                if length > arrived {
                    break;
                }
                arrived -= length;
                self.serve(which, route);
            }
        }
        self.route(which, route).link = None;
    }

    /// The connection breaks.
    pub(super) fn disconnect(&mut self, which: usize, route: usize) {
        let now = self.now(which);
        self.drop_link(which, route);
        self.route(which, route).engine.on_disconnected(&Error::Closed, now);
        self.drive(which, route);
    }

    pub(super) fn disconnect_all(&mut self, which: usize) {
        for route in 0..self.instances[which].routes.len() {
            self.disconnect(which, route);
        }
    }

    pub(super) fn deliver(&mut self, which: usize, route: usize) {
        let now = self.now(which);
        let one = self.route(which, route);
        let Some(reply) = one.link.as_mut().and_then(|link| link.replies.pop_front()) else { return };
        let before = one.engine.view(now).position;
        one.engine.on_reply(&reply, now);
        self.drive(which, route);
        self.route(which, route).learn_position(before, now);
    }

    /// The disk carries out a request.
    pub(super) fn work_disk(&mut self, which: usize, route: usize) {
        let now = self.now(which);
        let Instance { disk, routes, .. } = &mut self.instances[which];
        let one = &mut routes[route];
        if let (Some(log), Some(request)) = (&mut one.log, one.request.take()) {
            let (records, released) = match &request {
                SpoolRequest::Write(records) => (records.clone(), None),
                SpoolRequest::Release(mark) => (Vec::new(), Some(*mark)),
                SpoolRequest::Read { .. } => Default::default(),
            };
            let done = spool::answer(log, request);
            match &done {
                SpoolDone::Written { .. } => one.spooled.written(disk, &records),
                SpoolDone::WriteFailed { written, .. } => one.spooled.written(disk, &records[..*written]),
                _ => {}
            }
            released.iter().for_each(|mark| one.spooled.released(disk, mark));
            one.engine.on_spool(done, now);
        }
        self.drive(which, route);
    }
}

/// The commands in `bytes`, each as its bytes.
fn commands(bytes: &[u8]) -> Vec<Vec<u8>> {
    fn number(bytes: &[u8], at: &mut usize) -> usize {
        let end = *at + bytes[*at..].windows(2).position(|two| two == b"\r\n").unwrap();
        let number = std::str::from_utf8(&bytes[*at + 1..end]).unwrap().parse().unwrap();
        *at = end + 2;
        number
    }
    let (mut found, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let from = at;
        for _ in 0..number(bytes, &mut at) {
            at += number(bytes, &mut at) + 2;
        }
        found.push(bytes[from..at].to_vec());
    }
    found
}
