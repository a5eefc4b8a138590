//! Accounts: a map entry while idle, an actor with one instance while there is work.
//!
//! The actor is a task on the runtime of the caller; it only waits there. Guest code runs on the guest threads. What a call
//! staged is committed by the actor after the export returned ok, and only then does the caller of [`Account::event`] hear of it.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::call::{Birth, Done, Live, Sends, Work};
use crate::host::AccountHost;
use crate::lanes::{Ctl, Lost};
use crate::limits;
use crate::manifest::Lifecycle;
use crate::plugin::{Plugin, PluginHost};
use crate::state::{Exchanges, Io, LogBudget};
use crate::types::{
    AccountStatus, Action, CallError, Effects, EventRef, GuestError, GuestEvent, Outbound, Receipt,
    SendOutcome,
};

/// One account of one tenant at one plugin. Cheap while idle: no task, no channel, no instance.
/// Its methods must be called inside of a tokio runtime: the actor and the host's futures run there.
#[derive(Clone)]
pub struct Account(Arc<Inner>);

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account")
            .field("plugin", &self.0.plugin.id)
            .field("tenant", &self.0.io.tenant())
            .finish_non_exhaustive()
    }
}

struct Inner {
    host: Arc<PluginHost>,
    plugin: Arc<Plugin>,
    io: Arc<dyn AccountHost>,
    log: Arc<LogBudget>,
    state: Mutex<State>,
    /// Told of new work, of a stop and of a release.
    nudge: Notify,
    /// Told when the actor ends.
    ended: Notify,
}

#[derive(Default)]
struct State {
    /// There while there is an actor.
    mailbox: Option<Box<Mailbox>>,
    stopped: bool,
    health: Health,
}

#[derive(Default)]
struct Mailbox {
    sends: VecDeque<SendJob>,
    events: VecDeque<EventJob>,
    bytes: usize,
}

type Reply = oneshot::Sender<SendOutcome>;

struct SendJob {
    work: Work,
    reply: Reply,
}

struct EventJob {
    event: GuestEvent,
    weight: usize,
    reply: oneshot::Sender<Result<Vec<Action>, CallError>>,
}

enum Next {
    Send(SendJob),
    Event(EventJob),
    Nothing,
}

/// Failures of the recent past.
#[derive(Default)]
struct Health {
    /// In a row.
    consecutive: u32,
    /// The last 100 events, 1 = failed.
    window: u128,
    /// Milliseconds of the host's monotonic clock before which no instance is made.
    not_before_ms: u64,
    last: Option<Box<str>>,
    quarantined: bool,
}

impl Health {
    fn record(&mut self, failed: Option<&CallError>, now_ms: u64, jitter: u8) {
        const LAST_100: u128 = (1 << 100) - 1;
        self.window = ((self.window << 1) | u128::from(failed.is_some())) & LAST_100;
        let Some(why) = failed else {
            self.consecutive = 0;
            self.not_before_ms = 0;
            return;
        };
        self.consecutive += 1;
        self.last = Some(why.to_string().into());
        let step = (self.consecutive as usize - 1).min(limits::BACKOFF_MS.len() - 1);
        let wait = limits::BACKOFF_MS.get(step).copied().unwrap_or(0);
        // Up to a quarter more, so that accounts that failed together do not come back together.
        self.not_before_ms = now_ms + wait + wait / 4 * u64::from(jitter) / 255;
        self.quarantined |= self.consecutive >= limits::QUARANTINE_CONSECUTIVE
            || self.window.count_ones() > limits::QUARANTINE_PER_100;
    }

    fn why(&self) -> String {
        self.last.as_deref().unwrap_or("").to_owned()
    }
}

/// The error of a call that was ended from outside.
pub(crate) fn lost(lost: Lost, wall_ms: u64) -> CallError {
    match lost {
        Lost::Deadline => CallError::Deadline(wall_ms),
        Lost::Panic => CallError::Trap("a host function panicked; the instance is gone".to_owned()),
        Lost::Closed => CallError::Stopped,
    }
}

impl Account {
    /// A handle. Runs nothing.
    #[must_use]
    pub fn new(host: Arc<PluginHost>, plugin: Arc<Plugin>, io: Arc<dyn AccountHost>) -> Self {
        Self(Arc::new(Inner {
            host,
            plugin,
            io,
            log: Arc::default(),
            state: Mutex::default(),
            nudge: Notify::new(),
            ended: Notify::new(),
        }))
    }

    /// Gives one event to the guest and returns what it wants done, after the commit.
    ///
    /// The event is served even if the caller goes away. Events are served in the order in which they came.
    ///
    /// # Errors
    /// See [`CallError`]. Nothing of a failed event is stored. An event whose guest crashed was tried twice.
    pub async fn event(&self, event: GuestEvent) -> Result<Vec<Action>, CallError> {
        let weight = event.weight();
        let (reply, answer) = oneshot::channel();
        {
            let mut s = self.0.state.lock();
            self.0.may_run(&s)?;
            let wait = s
                .health
                .not_before_ms
                .saturating_sub(self.0.io.monotonic_ms());
            if wait >= 1_000 && matches!(event, GuestEvent::Webhook(_)) {
                // The platform repeats it; holding its request open for so long helps nobody.
                return Err(CallError::Busy {
                    retry_after_ms: wait,
                });
            }
            if let Some(m) = &s.mailbox
                && (m.events.len() >= self.0.plugin.manifest.limits.mailbox
                    || m.bytes.saturating_add(weight) > limits::MAX_MAILBOX_BYTES
                        && !m.events.is_empty())
            {
                return Err(CallError::Busy {
                    retry_after_ms: wait.max(1_000),
                });
            }
            self.0.with_mailbox(&mut s, |m| {
                m.bytes += weight;
                m.events.push_back(EventJob {
                    event,
                    weight,
                    reply,
                });
            });
        }
        answer.await.unwrap_or(Err(CallError::Stopped))
    }

    /// Puts one part of a reply on the platform. Goes before all waiting events. Never tried twice in here.
    pub async fn send(&self, message: Outbound) -> SendOutcome {
        self.deliver(Work::Send(message)).await
    }

    /// Changes a sent part. As [`Account::send`].
    pub async fn edit(&self, receipt: Receipt, message: Outbound) -> SendOutcome {
        self.deliver(Work::Edit(receipt, message)).await
    }

    async fn deliver(&self, work: Work) -> SendOutcome {
        let (reply, answer) = oneshot::channel();
        {
            let mut s = self.0.state.lock();
            if let Err(e) = self.0.may_run(&s) {
                return SendOutcome::Retry {
                    after_ms: limits::BACKOFF_MS[5],
                    why: e.to_string(),
                };
            }
            if s.mailbox
                .as_ref()
                .is_some_and(|m| m.sends.len() >= limits::MAX_MAILBOX_SENDS)
            {
                return SendOutcome::Retry {
                    after_ms: 1_000,
                    why: "busy: too many sends of this account wait".to_owned(),
                };
            }
            self.0
                .with_mailbox(&mut s, |m| m.sends.push_back(SendJob { work, reply }));
        }
        // The actor answers every job, or drops it before it began.
        answer.await.unwrap_or(SendOutcome::Retry {
            after_ms: 1_000,
            why: "the account was stopped before the send began".to_owned(),
        })
    }

    /// Ends the account: waiting events get [`CallError::Stopped`], waiting sends [`SendOutcome::Retry`]; returns when the call under way
    /// has ended and the instance is gone. [`Account::release`] lets it run again.
    pub async fn stop(&self) {
        loop {
            let ended = self.0.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            {
                let mut s = self.0.state.lock();
                s.stopped = true;
                if s.mailbox.is_none() {
                    break;
                }
            }
            self.0.nudge.notify_one();
            ended.await;
        }
        self.0.io.status(AccountStatus::Stopped);
    }

    /// Takes the account out of quarantine, back-off and stop.
    pub fn release(&self) {
        let mut s = self.0.state.lock();
        s.stopped = false;
        s.health = Health::default();
        drop(s);
        self.0.nudge.notify_one();
        self.0.io.status(self.state());
    }

    /// Now.
    #[must_use]
    pub fn state(&self) -> AccountStatus {
        self.0.status(&self.0.state.lock())
    }
}

impl Inner {
    fn status(&self, s: &State) -> AccountStatus {
        if s.stopped {
            return AccountStatus::Stopped;
        }
        if s.health.quarantined {
            return AccountStatus::Quarantined {
                why: s.health.why(),
            };
        }
        let next_ms = s
            .health
            .not_before_ms
            .saturating_sub(self.io.monotonic_ms());
        if s.health.consecutive > 0 {
            return AccountStatus::Backoff {
                failures: s.health.consecutive,
                next_ms,
                why: s.health.why(),
            };
        }
        if s.mailbox.is_some() {
            AccountStatus::Running
        } else {
            AccountStatus::Idle
        }
    }

    fn may_run(&self, s: &State) -> Result<(), CallError> {
        if s.stopped {
            return Err(CallError::Stopped);
        }
        if s.health.quarantined {
            return Err(CallError::Quarantined(s.health.why()));
        }
        Ok(())
    }

    /// Puts something into the mailbox, and starts the actor if there is none.
    fn with_mailbox(self: &Arc<Self>, s: &mut State, put: impl FnOnce(&mut Mailbox)) {
        let fresh = s.mailbox.is_none();
        put(s.mailbox.get_or_insert_default());
        if fresh {
            tokio::spawn(actor(self.clone()));
        } else {
            self.nudge.notify_one();
        }
    }

    fn next(&self) -> Next {
        let mut s = self.state.lock();
        let Some(m) = s.mailbox.as_mut() else {
            return Next::Nothing;
        };
        if let Some(job) = m.sends.pop_front() {
            return Next::Send(job);
        }
        match m.events.pop_front() {
            Some(job) => {
                m.bytes -= job.weight;
                Next::Event(job)
            }
            None => Next::Nothing,
        }
    }

    /// Sends that wait behind one, at most so many.
    fn next_sends(&self, most: usize) -> Vec<SendJob> {
        let mut s = self.state.lock();
        let Some(m) = s.mailbox.as_mut() else {
            return Vec::new();
        };
        let waiting = m.sends.len().min(most);
        m.sends.drain(..waiting).collect()
    }

    /// Puts sends that were not begun back to where they came from, before all others.
    fn put_back(&self, sends: impl DoubleEndedIterator<Item = (Work, Reply)>) {
        let mut s = self.state.lock();
        if let Some(m) = s.mailbox.as_mut() {
            for (work, reply) in sends.rev() {
                m.sends.push_front(SendJob { work, reply });
            }
        }
    }

    /// Webhook requests that wait right behind one, to be served by the same call and commit.
    fn next_webhooks(&self) -> Vec<EventJob> {
        let mut s = self.state.lock();
        let Some(m) = s.mailbox.as_mut() else {
            return Vec::new();
        };
        let waiting = m
            .events
            .iter()
            .take(self.plugin.manifest.batch.saturating_sub(1))
            .take_while(|job| matches!(job.event, GuestEvent::Webhook(_)))
            .count();
        let jobs: Vec<EventJob> = m.events.drain(..waiting).collect();
        m.bytes -= jobs.iter().map(|job| job.weight).sum::<usize>();
        jobs
    }

    /// Milliseconds until an instance may be made.
    fn backoff_ms(&self) -> u64 {
        self.state
            .lock()
            .health
            .not_before_ms
            .saturating_sub(self.io.monotonic_ms())
    }

    /// Notes how a call ended and tells the operator of a change.
    fn record(&self, failed: Option<&CallError>) {
        let jitter = match failed {
            Some(_) => self.io.random(1).first().copied().unwrap_or(0),
            None => 0,
        };
        let (before, after) = {
            let mut s = self.state.lock();
            let before = s.health.consecutive > 0;
            s.health.record(failed, self.io.monotonic_ms(), jitter);
            (before, self.status(&s))
        };
        if failed.is_some() || before {
            self.io.status(after);
        }
    }

    /// Whether everything must end now.
    fn must_end(&self) -> Option<CallError> {
        self.may_run(&self.state.lock()).err()
    }
}

/// Makes room for a new actor however this one ends: also if host code panics in it, or its runtime is shut down.
struct Ended {
    account: Arc<Inner>,
    regular: bool,
}

impl Drop for Ended {
    fn drop(&mut self) {
        if self.regular {
            return;
        }
        // What waited is dropped, and whoever asked is told that the account was stopped.
        let waiting = self.account.state.lock().mailbox.take();
        drop(waiting);
        self.account.ended.notify_waiters();
    }
}

/// Serves the mailbox until it is empty and the instance has been without work for a while.
async fn actor(a: Arc<Inner>) {
    let mut ended = Ended {
        account: a.clone(),
        regular: false,
    };
    a.io.status(AccountStatus::Running);
    let mut live: Option<Live> = None;
    loop {
        if let Some(why) = a.must_end() {
            drain(&a, &why);
        }
        match a.next() {
            Next::Send(job) => deliver(&a, &mut live, job).await,
            Next::Event(job) => serve_waiting(&a, &mut live, job).await,
            Next::Nothing => {
                let stays = live.is_some() && a.must_end().is_none();
                if stays && linger(&a).await {
                    continue;
                }
                if let Some(l) = live.take() {
                    bury(&a, l);
                }
                let mut s = a.state.lock();
                if s.mailbox
                    .as_ref()
                    .is_none_or(|m| m.sends.is_empty() && m.events.is_empty())
                {
                    s.mailbox = None;
                    let status = a.status(&s);
                    // The mailbox is gone: another actor may be there from here on, and its mailbox is not ours to take.
                    ended.regular = true;
                    drop(s);
                    if status == AccountStatus::Idle {
                        a.io.status(status);
                    }
                    a.ended.notify_waiters();
                    return;
                }
            }
        }
        if live.as_ref().is_some_and(|l| too_old(&a, l))
            && let Some(l) = live.take()
        {
            bury(&a, l);
        }
    }
}

/// Waits for more work. False: give the instance back.
async fn linger(a: &Inner) -> bool {
    let nudged = a.nudge.notified();
    match a.plugin.manifest.lifecycle {
        Lifecycle::Fresh => false,
        Lifecycle::Burst => tokio::select! {
            () = nudged => true,
            () = a.host.pressure.notified() => false,
            () = tokio::time::sleep(Duration::from_millis(limits::INSTANCE_LINGER_MS)) => false,
        },
        Lifecycle::Warm => tokio::select! {
            () = nudged => true,
            () = a.host.pressure.notified() => false,
        },
    }
}

fn too_old(a: &Inner, live: &Live) -> bool {
    match a.plugin.manifest.lifecycle {
        _ if live.is_doomed() => true,
        Lifecycle::Fresh => true,
        Lifecycle::Burst => {
            live.served >= limits::MAX_EVENTS_PER_INSTANCE
                || live.born.elapsed() >= Duration::from_millis(limits::MAX_INSTANCE_AGE_MS)
        }
        Lifecycle::Warm => false,
    }
}

/// Drops an instance on a guest thread: giving memory back is not the connections' work.
fn bury(a: &Inner, live: Live) {
    let gone = a.host.lanes.run(
        Arc::from(a.io.tenant()),
        Duration::from_secs(5),
        Duration::from_secs(5),
        move |_| async move { drop(live) },
    );
    drop(gone);
}

/// Answers everything that waits.
fn drain(a: &Inner, why: &CallError) {
    loop {
        match a.next() {
            Next::Send(job) => drop(job.reply.send(SendOutcome::Retry {
                after_ms: limits::BACKOFF_MS[5],
                why: why.to_string(),
            })),
            Next::Event(job) => drop(job.reply.send(Err(why.clone()))),
            Next::Nothing => return,
        }
    }
}

/// Waits until the back-off is over. Sends that come meanwhile are answered at once. False: stopped.
async fn wait_backoff(a: &Inner) -> bool {
    loop {
        if a.must_end().is_some() {
            return false;
        }
        let wait = a.backoff_ms();
        if wait == 0 {
            return true;
        }
        let sends: Vec<SendJob> = a
            .state
            .lock()
            .mailbox
            .as_mut()
            .map(|m| m.sends.drain(..).collect())
            .unwrap_or_default();
        for job in sends {
            drop(job.reply.send(SendOutcome::Retry {
                after_ms: wait,
                why: "the account is backing off after failures".to_owned(),
            }));
        }
        tokio::select! {
            () = a.nudge.notified() => {}
            // In steps: the clock of the host need not be the clock of the runtime.
            () = tokio::time::sleep(Duration::from_millis(wait.min(limits::BACKOFF_STEP_MS))) => {}
        }
    }
}

/// Serves an event and, if it is a webhook request, those that wait behind it: one call and one commit for all. Whatever
/// goes wrong with the whole is forgotten, and each is served for itself, so that none suffers from another.
async fn serve_waiting(a: &Arc<Inner>, live: &mut Option<Live>, first: EventJob) {
    let mut jobs = vec![first];
    let one_each = matches!(a.plugin.manifest.lifecycle, Lifecycle::Fresh);
    if !one_each && matches!(jobs[0].event, GuestEvent::Webhook(_)) && a.backoff_ms() == 0 {
        jobs.extend(a.next_webhooks());
    }
    if jobs.len() > 1 && a.must_end().is_none() {
        let events = jobs.iter().map(|job| job.event.clone()).collect();
        if let Ok((Done::Actions(actions), fx)) = call(a, live, events).await {
            if a.io.commit(fx).await.is_ok() {
                a.record(None);
                for job in jobs {
                    let EventRef::Webhook { handle } = job.event.reference() else {
                        continue;
                    };
                    let own = actions.iter().filter(|action| action.handle() == handle);
                    drop(job.reply.send(Ok(own.cloned().collect())));
                }
                return;
            }
            // The guest believes in what was not stored.
            if let Some(l) = live.take() {
                bury(a, l);
            }
        }
    }
    for job in jobs {
        serve(a, live, job).await;
    }
}

/// Serves one event: once, and once more if the guest crashed.
async fn serve(a: &Arc<Inner>, live: &mut Option<Live>, job: EventJob) {
    let mut tries = 0;
    let result = loop {
        if !wait_backoff(a).await {
            break Err(a.must_end().unwrap_or(CallError::Stopped));
        }
        tries += 1;
        match call(a, live, vec![job.event.clone()]).await {
            Ok((Done::Actions(actions), fx)) => {
                a.record(None);
                match a.io.commit(fx).await {
                    Ok(_) => break Ok(actions),
                    Err(e) => {
                        // The guest believes in what was not stored.
                        if let Some(l) = live.take() {
                            bury(a, l);
                        }
                        break Err(CallError::Commit(e));
                    }
                }
            }
            Ok((Done::Receipt(_), _)) => {
                break Err(CallError::Protocol("a receipt for an event".to_owned()));
            }
            Err(e) if e.is_crash() => {
                a.record(Some(&e));
                if tries >= 2 {
                    break Err(CallError::PoisonedEvent(Box::new(e)));
                }
            }
            Err(e) => {
                // The guest said no: its wish and not a crash.
                a.record(None);
                break Err(e);
            }
        }
    };
    drop(job.reply.send(result));
}

/// Puts a message on the platform, and those that wait behind it as far as one turn on a guest thread goes. Each is a
/// call of its own, with its own limits; what was not begun waits on.
async fn deliver(a: &Arc<Inner>, live: &mut Option<Live>, first: SendJob) {
    let wait = a.backoff_ms();
    if wait > 0 {
        // Whoever asked may have gone away; the outcome is theirs to lose.
        drop(first.reply.send(SendOutcome::Retry {
            after_ms: wait,
            why: "the account is backing off after failures".to_owned(),
        }));
        return;
    }
    let most = match a.plugin.manifest.lifecycle {
        Lifecycle::Fresh => 1,
        Lifecycle::Burst | Lifecycle::Warm => limits::MAX_SENDS_PER_TURN,
    };
    let mut waiting = VecDeque::from([(first.work, first.reply)]);
    waiting.extend(
        a.next_sends(most - 1)
            .into_iter()
            .map(|job| (job.work, job.reply)),
    );
    let with = match live.take() {
        Some(l) => Ok(l),
        None => match birth(a).await {
            Ok(b) => Err(b),
            Err(e) => {
                let first = waiting.pop_front();
                a.put_back(waiting.into_iter());
                if let Some((_, reply)) = first {
                    let outcome = judge(a, live, Err(e), &Exchanges::default()).await;
                    drop(reply.send(outcome));
                }
                return;
            }
        },
    };
    let sends = Arc::new(Mutex::new(Sends {
        waiting,
        begun: Vec::new(),
        ended: Vec::new(),
    }));
    let limits = a.plugin.manifest.limits;
    let (plugin, shared, io) = (a.plugin.clone(), sends.clone(), a.io.clone());
    let turn = a
        .host
        .lanes
        .run(
            Arc::from(a.io.tenant()),
            Duration::from_millis(limits.call_ms),
            Duration::from_millis(limits.cpu_ms),
            move |ctl| {
                counted(
                    io,
                    ctl.clone(),
                    crate::call::run_sends(plugin, with, shared, ctl),
                )
            },
        )
        .await;
    // A turn that was given up may still end on its thread; what it finds then is this empty list.
    let (mut left, mut begun, mut ended) = {
        let mut sends = sends.lock();
        (
            std::mem::take(&mut sends.waiting),
            std::mem::take(&mut sends.begun),
            std::mem::take(&mut sends.ended),
        )
    };
    match turn {
        Ok(back) => *live = back,
        Err(why) => {
            // The one that was under way is lost; if none was begun, the first did not get its turn.
            if begun.is_empty() {
                begun.extend(left.pop_front().map(|(_, reply)| (reply, Arc::default())));
            }
            if ended.len() < begun.len() {
                ended.push(Err(lost(why, limits.call_ms)));
            }
        }
    }
    a.put_back(left.into_iter());
    for ((reply, exchanges), result) in begun.into_iter().zip(ended) {
        let outcome = judge(a, live, result, &exchanges).await;
        drop(reply.send(outcome));
    }
}

/// What came of a send.
async fn judge(
    a: &Arc<Inner>,
    live: &mut Option<Live>,
    result: Result<(Done, Effects), CallError>,
    exchanges: &Exchanges,
) -> SendOutcome {
    match result {
        Ok((Done::Receipt(receipt), fx)) => {
            a.record(None);
            if let Err(e) = commit_send(a, fx).await {
                // The platform has the message: that is what counts. The guest's own notes are lost.
                tracing::warn!(plugin = %a.plugin.id, error = %e, "what the guest stored while sending was not kept");
                if let Some(l) = live.take() {
                    bury(a, l);
                }
            }
            SendOutcome::Sent(receipt)
        }
        Ok((Done::Actions(_), _)) => SendOutcome::Failed {
            why: "actions for a send".to_owned(),
        },
        Err(e) if e.is_crash() => {
            a.record(Some(&e));
            if exchanges.any_sent() {
                SendOutcome::Unknown {
                    why: format!("{e}; a request had left"),
                }
            } else {
                SendOutcome::Retry {
                    after_ms: a.backoff_ms().max(1),
                    why: e.to_string(),
                }
            }
        }
        Err(CallError::Guest(g)) => {
            a.record(None);
            let why = g.to_string();
            match g {
                _ if exchanges.uncertain() => SendOutcome::Unknown { why },
                GuestError::RateLimited(ms) => SendOutcome::Retry {
                    after_ms: u64::from(ms).max(1),
                    why,
                },
                GuestError::Network(_) | GuestError::Internal(_) => SendOutcome::Retry {
                    after_ms: 1_000,
                    why,
                },
                GuestError::Auth(_)
                | GuestError::NotFound(_)
                | GuestError::TooLarge(_)
                | GuestError::Invalid(_)
                | GuestError::Unsupported(_) => SendOutcome::Failed { why },
            }
        }
        Err(e) if exchanges.any_sent() => SendOutcome::Unknown { why: e.to_string() },
        Err(e) => SendOutcome::Retry {
            after_ms: 1_000,
            why: e.to_string(),
        },
    }
}

async fn commit_send(a: &Inner, fx: Effects) -> Result<(), crate::types::HostError> {
    if fx.is_empty() {
        return Ok(());
    }
    a.io.commit(fx).await.map(|_| ())
}

/// Tells the host what a turn on a guest thread used, at its end on that thread.
async fn counted<T>(io: Arc<dyn AccountHost>, ctl: Arc<Ctl>, turn: impl Future<Output = T>) -> T {
    let output = turn.await;
    io.used(Duration::from_micros(ctl.used_us()));
    output
}

/// Gives events to the guest in one call on the guest threads, with the instance that lives or with a new one.
async fn call(
    a: &Arc<Inner>,
    live: &mut Option<Live>,
    events: Vec<GuestEvent>,
) -> Result<(Done, Effects), CallError> {
    let with = match live.take() {
        Some(l) => Ok(l),
        None => Err(birth(a).await?),
    };
    let limits = a.plugin.manifest.limits;
    let (plugin, io) = (a.plugin.clone(), a.io.clone());
    let ended = a
        .host
        .lanes
        .run(
            Arc::from(a.io.tenant()),
            Duration::from_millis(limits.call_ms),
            Duration::from_millis(limits.cpu_ms),
            move |ctl| {
                let work = Work::Events(events);
                let call = crate::call::run(plugin, with, work, ctl.clone(), Arc::default());
                counted(io, ctl, call)
            },
        )
        .await;
    match ended {
        Ok((back, result)) => {
            *live = back;
            result
        }
        Err(why) => Err(lost(why, limits.call_ms)),
    }
}

async fn birth(a: &Arc<Inner>) -> Result<Birth, CallError> {
    let state =
        a.io.state()
            .await
            .map_err(CallError::Commit)?
            .unwrap_or_default();
    let place = a.host.place(a.plugin.manifest.class).await;
    let rt = tokio::runtime::Handle::current();
    Ok(Birth {
        spec: a
            .plugin
            .spec(Io::Account(a.io.clone()), Some(rt), a.log.clone()),
        config: a.io.config_json(),
        state,
        place,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn backoff_grows_with_failures_in_a_row_and_any_success_resets_it() {
        let mut h = Health::default();
        let e = CallError::Trap("x".into());
        let mut waits = Vec::new();
        for _ in 0..7 {
            h.record(Some(&e), 1_000, 0);
            waits.push(h.not_before_ms - 1_000);
        }
        assert_eq!(waits, [0, 1_000, 2_000, 5_000, 15_000, 60_000, 60_000]);
        assert!(!h.quarantined);
        h.record(None, 1_000, 0);
        assert_eq!((h.consecutive, h.not_before_ms), (0, 0));
        h.record(Some(&e), 1_000, 255);
        assert_eq!(h.not_before_ms, 1_000);
    }

    #[test]
    fn quarantine_at_ten_in_a_row_or_more_than_a_fifth_of_the_last_hundred() {
        let e = CallError::Deadline(5);
        let mut h = Health::default();
        for n in 1..=10 {
            assert!(!h.quarantined, "before failure {n}");
            h.record(Some(&e), 0, 0);
        }
        assert!(h.quarantined);
        let mut h = Health::default();
        for _ in 0..20 {
            h.record(Some(&e), 0, 0);
            for _ in 0..4 {
                h.record(None, 0, 0);
            }
        }
        assert!(!h.quarantined, "exactly a fifth");
        // Old failures leave the window: a fifth again and again is not more than a fifth.
        for _ in 0..5 {
            for _ in 0..4 {
                h.record(None, 0, 0);
            }
            h.record(Some(&e), 0, 0);
        }
        assert!(!h.quarantined);
        h.record(Some(&e), 0, 0);
        h.record(Some(&e), 0, 0);
        assert!(h.quarantined);
    }
}
