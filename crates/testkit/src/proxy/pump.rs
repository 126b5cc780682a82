//! One way of one connection: reads, holds back as the flow of the moment says, writes.

use std::{
    collections::VecDeque,
    io,
    sync::atomic::{AtomicU64, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::tcp::{ReadHalf, WriteHalf},
    sync::watch,
    time::{self, Instant},
};

use super::flow::{Flow, Passage};

/// So much is read ahead while it is held back by a delay or a rate.
const AHEAD: usize = 1 << 20;
const CHUNK: usize = 16 * 1024;
/// A limited rate is written in portions of so much of a second.
const PORTIONS: u64 = 50;

/// The connection is to be reset on both sides.
#[derive(Debug)]
pub(super) struct Reset;

pub(super) struct Pump<'a> {
    from: ReadHalf<'a>,
    to: WriteHalf<'a>,
    flows: watch::Receiver<Flow>,
    passed: &'a AtomicU64,
    /// What was read, with the time at which it came.
    waiting: VecDeque<(Instant, Vec<u8>)>,
    bytes_waiting: usize,
    /// Not before this is more written, for the rate.
    next_write: Instant,
    ended: Option<Ended>,
    closes: u64,
}

/// How the sender has ended its side.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    Closed,
    Broken,
}

impl<'a> Pump<'a> {
    pub(super) fn new(
        from: ReadHalf<'a>,
        to: WriteHalf<'a>,
        flows: watch::Receiver<Flow>,
        passed: &'a AtomicU64,
    ) -> Self {
        let closes = flows.borrow().closes;
        Self {
            from,
            to,
            flows,
            passed,
            waiting: VecDeque::new(),
            bytes_waiting: 0,
            next_write: Instant::now(),
            ended: None,
            closes,
        }
    }

    /// Runs until this way has ended well; an error tells to reset both sides.
    pub(super) async fn run(mut self) -> Result<(), Reset> {
        let mut chunk = vec![0; CHUNK];
        let mut is_closed = false;
        loop {
            let flow = *self.flows.borrow_and_update();
            if flow.closes > self.closes && !is_closed {
                is_closed = true;
                self.forget();
                // A peer that is gone already needs no end.
                let _ = self.to.shutdown().await;
            }
            if flow.passage == Passage::Forward && self.waiting.is_empty() {
                match self.ended {
                    Some(Ended::Broken) => return Err(Reset),
                    Some(Ended::Closed) if !is_closed => {
                        return self.to.shutdown().await.map_err(|_gone| Reset);
                    }
                    Some(Ended::Closed) => return Ok(()),
                    None => {}
                }
            }
            let reads = self.ended.is_none() && flow.passage != Passage::Hole && self.bytes_waiting < AHEAD;
            let due = self.due(&flow);
            // Each arm may be dropped half way: a read or a write that was not ready has moved nothing.
            tokio::select! {
                changed = self.flows.changed() => if changed.is_err() { return Err(Reset) },
                read = self.from.read(&mut chunk), if reads => {
                    self.take(read, &chunk, flow.passage == Passage::Swallow || is_closed);
                }
                written = Self::write(&mut self.to, &self.waiting, due, &flow), if due.is_some() => {
                    let written = written.map_err(|_gone| Reset)?;
                    self.drop_front(written, &flow);
                }
            }
        }
    }

    fn take(&mut self, read: io::Result<usize>, chunk: &[u8], is_lost: bool) {
        match read {
            Ok(0) => self.ended = Some(Ended::Closed),
            Err(_broken) => self.ended = Some(Ended::Broken),
            Ok(_) if is_lost => {}
            Ok(read) => {
                self.bytes_waiting += read;
                self.waiting.push_back((Instant::now(), chunk[..read].to_vec()));
            }
        }
    }

    /// When the next byte may be written.
    fn due(&self, flow: &Flow) -> Option<Instant> {
        let (came, _) = self.waiting.front().filter(|_| flow.passage != Passage::Hole)?;
        Some((*came + flow.delay).max(self.next_write))
    }

    async fn write(
        to: &mut WriteHalf<'_>,
        waiting: &VecDeque<(Instant, Vec<u8>)>,
        due: Option<Instant>,
        flow: &Flow,
    ) -> io::Result<usize> {
        if let Some(due) = due.filter(|due| *due > Instant::now()) {
            time::sleep_until(due).await;
        }
        let Some((_, bytes)) = waiting.front() else { return Ok(0) };
        let portion = flow.rate.map_or(bytes.len(), |rate| {
            usize::try_from(rate.get() / PORTIONS).unwrap_or(usize::MAX).clamp(1, bytes.len())
        });
        to.write(&bytes[..portion]).await
    }

    fn drop_front(&mut self, written: usize, flow: &Flow) {
        self.passed.fetch_add(written as u64, Ordering::Relaxed);
        self.bytes_waiting -= written;
        if let Some((_, bytes)) = self.waiting.front_mut() {
            bytes.drain(..written);
            if bytes.is_empty() {
                self.waiting.pop_front();
            }
        }
        if let Some(rate) = flow.rate {
            let took = std::time::Duration::from_secs_f64(written as f64 / rate.get() as f64);
            self.next_write = Instant::now() + took;
        } else {
            self.next_write = Instant::now();
        }
    }

    fn forget(&mut self) {
        self.waiting.clear();
        self.bytes_waiting = 0;
    }
}
