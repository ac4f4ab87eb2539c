//! Closing ports and the whole data plane, without disturbing what goes on.

use std::time::{Duration, Instant};

use super::{Dataplane, WORKERS_ANSWER};
use crate::error::Error;
use crate::port::Port;
use crate::port::queue::Queue;
use crate::settings::PortId;
use crate::snapshot::Obtained;
use crate::worker::fabric::{Command, Returned};

/// In zero-copy mode the kernel takes a queue away from its device some time after the socket is closed
/// (`xp_release_deferred`): rebinding was seen to be refused for up to 226 ms. Until then the device may write to the
/// queue's frames.
const QUARANTINE: Duration = Duration::from_secs(1);

/// A port whose queues are on their way back from the workers.
#[derive(Debug)]
pub(super) struct Closing {
    port: Port,
    /// Workers that have not answered yet.
    missing: usize,
    /// Queues that have come back, with the worker that had them.
    queues: Vec<(usize, Queue)>,
}

impl Closing {
    pub(super) fn is(&self, id: PortId) -> bool {
        self.port.id == id
    }
}

impl Dataplane {
    /// Detaches a port and takes its frames back; other ports go on undisturbed. Works for devices that are gone.
    pub fn close_port(&mut self, id: PortId) -> Result<(), Error> {
        let port = self.ports.remove(&id).ok_or(Error::NotOpen(id.0))?;
        self.detach(&port);
        self.shared.close_port(id);
        let missing = self.workers.len();
        self.closing.push(Closing {
            port,
            missing,
            queues: Vec::new(),
        });
        for worker in 0..self.workers.len() {
            self.fabric.command(worker, Command::Close { port: id });
        }
        let until = Instant::now() + WORKERS_ANSWER;
        while self.closing.iter().any(|closing| closing.is(id)) && Instant::now() < until {
            std::thread::sleep(Duration::from_micros(100));
            self.reap();
        }
        self.marks.borrow_mut().forget(id);
        Ok(())
    }

    /// Stops giving a port's frames to its sockets. What fails here has gone with the device.
    fn detach(&self, port: &Port) {
        for queue in 0..port.sockets.len() as u32 {
            let _ = self.steer.remove_socket(port.id, queue);
        }
        let _ = self.steer.remove_port(port.spec.ifindex);
    }

    /// Takes back queues that workers have given up: closes their sockets and gives their frames to the workers.
    pub(super) fn reap(&mut self) {
        while let Some(Returned { worker, port, queues }) = self.fabric.returned.pop() {
            let Some(at) = self.closing.iter().position(|closing| closing.is(port)) else {
                continue;
            };
            let closing = &mut self.closing[at];
            closing
                .queues
                .extend(queues.into_iter().map(|queue| (worker, queue)));
            closing.missing -= 1;
            if closing.missing == 0 {
                let closing = self.closing.swap_remove(at);
                self.take_back(closing);
            }
        }
        let now = Instant::now();
        let due = |entry: &mut (Instant, usize, _)| entry.0 <= now;
        for (_, worker, frames) in self.quarantine.extract_if(.., due) {
            self.fabric.command(worker, Command::Adopt(frames));
        }
    }

    fn take_back(&mut self, closing: Closing) {
        let Closing { port, queues, .. } = closing;
        let zerocopy = port.obtained == Obtained::Zerocopy;
        for &owner in &port.owners {
            self.load[usize::from(owner)] -= 1;
        }
        // The program's attachment and the handles on the sockets: now each queue has the last one.
        drop(port);
        for (worker, queue) in queues {
            let frames = queue.close();
            if zerocopy {
                self.quarantine
                    .push((Instant::now() + QUARANTINE, worker, frames));
            } else {
                self.fabric.command(worker, Command::Adopt(frames));
            }
        }
    }

    /// Stops everything, in the order in which a packet would notice: no frames in, workers, sockets.
    pub(super) fn stop(&mut self) -> Result<(), Error> {
        let ports = std::mem::take(&mut self.ports);
        for port in ports.values() {
            self.detach(port);
        }
        for worker in 0..self.workers.len() {
            self.fabric.command(worker, Command::Stop);
        }
        let mut frames: Vec<_> = self.workers.drain(..).flat_map(|worker| worker.join()).collect();
        drop(ports);
        let closing = std::mem::take(&mut self.closing)
            .into_iter()
            .flat_map(|closing| closing.queues);
        let mut queues: Vec<Queue> = closing.map(|(_, queue)| queue).collect();
        while let Some(returned) = self.fabric.returned.pop() {
            queues.extend(returned.queues);
        }
        frames.extend(queues.into_iter().flat_map(Queue::close));
        frames.extend(self.quarantine.drain(..).flat_map(|(_, _, frames)| frames));
        self.fabric.drain(&self.umem, &mut frames);
        let (total, back) = (self.umem.frames() as usize, frames.len());
        if back != 0 && back != total {
            eprintln!("of {total} frames {back} came back: the data plane has lost count of some");
        }
        // The UMEM goes: its tokens end.
        for frame in frames {
            let _ = frame.surrender();
        }
        Ok(())
    }
}
