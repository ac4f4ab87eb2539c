//! What single updates of a full table cost, and what look-ups lose to them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use classifier::lpm::{Addr, BURST, NO_ROUTE, Prefix, Table, TableReader, Value};
use classifier::qsbr::{Domain, Reader};

use super::{Ip, Model, Random};
use crate::{Result, report, sys};

/// Routes that are replaced, removed and added again, one after the other.
const ROUTES: usize = 10_000;
/// Updates a second beside look-ups.
const RATE: f64 = 10_000.0;

/// Seconds from the call of an update until a reader on another core has the new answer.
pub struct Latency {
    /// Half of them take no longer.
    pub median: f64,
    /// 99 of 100 take no longer.
    pub p99: f64,
    /// How many were measured.
    pub count: usize,
}

/// What look-ups lose.
pub struct Loss {
    /// Share of the look-up speed that is lost while another thread makes 10,000 updates a second; from 0 to 1.
    pub lost: f64,
    /// Updates a second that the other thread reached.
    pub rate: f64,
}

/// The reader's states: it waits for a question, has one, has seen the old answer, has seen the new one.
const IDLE: usize = 0;
const ASKED: usize = 1;
const ARMED: usize = 2;
const SEEN: usize = 3;

/// Replaces, removes and adds random routes of a full table while a reader on another core asks for an address of the
/// route over and over.
///
/// # Errors
/// A core that this process may not run on.
///
/// # Panics
/// When the table refuses its own routes.
pub fn latency<A: Ip>(
    routes: &[(Prefix<A>, Value)],
    writer_core: usize,
    reader_core: usize,
) -> Result<Latency> {
    let domain = Domain::new();
    let mut table = Table::new(&domain);
    table.load(routes.iter().copied()).expect("the routes load");
    let (mut worker, reader) = (domain.register(), table.reader());
    let (state, done) = (AtomicUsize::new(IDLE), AtomicBool::new(false));
    // The address asked for and the answer to wait for.
    let question = Mutex::new((A::default(), NO_ROUTE));
    let epoch = Instant::now();
    let seen_at = AtomicU64::new(0);
    let nanoseconds = || epoch.elapsed().as_nanos() as u64;
    let mut seconds = Vec::new();
    sys::pin(writer_core)?;
    std::thread::scope(|scope| {
        use Ordering::SeqCst;
        let asking = scope.spawn(|| {
            let pinned = sys::pin(reader_core);
            while !done.load(SeqCst) {
                worker.quiescent();
                if state.load(SeqCst) != ASKED {
                    std::hint::spin_loop();
                    continue;
                }
                let (addr, awaited) = *question.lock().expect("no thread panics with it");
                let _ = std::hint::black_box(reader.lookup(&worker.online(), addr));
                state.store(ARMED, SeqCst);
                while reader.lookup(&worker.online(), addr) != awaited {
                    worker.quiescent();
                }
                seen_at.store(nanoseconds(), SeqCst);
                state.store(SEEN, SeqCst);
            }
            pinned
        });
        let mut random = Random::new(7);
        let mut measure =
            |table: &mut Table<A>, addr: A, prefix: Prefix<A>, value: Option<Value>, awaited| {
                *question.lock().expect("no thread panics with it") = (addr, awaited);
                state.store(ASKED, SeqCst);
                while state.load(SeqCst) != ARMED {
                    std::hint::spin_loop();
                }
                let start = nanoseconds();
                change(table, prefix, value);
                while state.load(SeqCst) != SEEN {
                    std::hint::spin_loop();
                }
                state.store(IDLE, SeqCst);
                seconds.push(seen_at.load(SeqCst).saturating_sub(start) as f64 * 1e-9);
            };
        for _ in 0..ROUTES {
            let (prefix, value) = routes[random.below(routes.len())];
            let Some((addr, without)) = witness(&mut table, prefix, value) else {
                continue;
            };
            let other = (1..4).map(|by| value ^ by).find(|other| *other != without);
            let other = other.expect("three values are not one");
            measure(&mut table, addr, prefix, Some(other), other);
            measure(&mut table, addr, prefix, None, without);
            measure(&mut table, addr, prefix, Some(value), value);
        }
        done.store(true, SeqCst);
        asking.join().expect("the reader")
    })?;
    Ok(Latency {
        median: report::median(&seconds),
        p99: report::quantile(&seconds, 0.99),
        count: seconds.len(),
    })
}

fn change<A: Addr>(table: &mut Table<A>, prefix: Prefix<A>, value: Option<Value>) {
    match value {
        Some(value) => table.insert(prefix, value),
        None => table.remove(prefix),
    }
    .expect("an update");
}

/// An address that this route answers for, and its answer without the route. `None` when longer routes cover both
/// ends.
fn witness<A: Ip>(table: &mut Table<A>, prefix: Prefix<A>, value: Value) -> Option<(A, Value)> {
    let addr = [prefix.addr(), prefix.last()]
        .into_iter()
        .find(|addr| table.lookup(*addr).is_some_and(|(found, _)| found == prefix))?;
    change(table, prefix, None);
    let without = table.lookup(addr).map_or(NO_ROUTE, |(_, value)| value);
    change(table, prefix, Some(value));
    Some((addr, without))
}

/// Looks up beside a thread that replaces, removes and adds random routes, 10,000 times a second, in slices that alternate
/// with slices without it.
///
/// # Errors
/// A core that this process may not run on.
///
/// # Panics
/// When the table refuses its own routes.
pub fn loss<A: Ip>(routes: &[(Prefix<A>, Value)], writer_core: usize, reader_core: usize) -> Result<Loss> {
    let domain = Domain::new();
    let mut table = Table::new(&domain);
    table.load(routes.iter().copied()).expect("the routes load");
    let (mut worker, reader) = (domain.register(), table.reader());
    let mut random = Random::new(7);
    let mut next = {
        let (mut step, mut at) = (0usize, 0);
        move |table: &mut Table<A>| {
            if step.is_multiple_of(3) {
                at = random.below(routes.len());
            }
            let (prefix, value) = routes[at];
            change(table, prefix, [Some(value ^ 1), None, Some(value)][step % 3]);
            step += 1;
        }
    };
    let keys = Model::Route.keys(routes, 1 << 16);
    let (stop, active) = (AtomicBool::new(false), AtomicBool::new(false));
    let (mut still, mut busy) = (Vec::new(), Vec::new());
    sys::pin(reader_core)?;
    let rate = std::thread::scope(|scope| {
        use Ordering::Relaxed;
        let writer = scope.spawn(|| {
            sys::pin(writer_core)?;
            let (mut made, mut time) = (0u64, 0.0);
            while !stop.load(Relaxed) {
                if !active.load(Relaxed) {
                    std::thread::sleep(Duration::from_micros(200));
                    continue;
                }
                let start = Instant::now();
                let mut here = 0u32;
                while active.load(Relaxed) {
                    // What is due by now: a writer that was off the processor catches up.
                    while here < (start.elapsed().as_secs_f64() * RATE) as u32 {
                        next(&mut table);
                        here += 1;
                    }
                    domain.reclaim();
                    std::thread::sleep(Duration::from_micros(50));
                }
                made += u64::from(here);
                time += start.elapsed().as_secs_f64();
            }
            Ok(made as f64 / time)
        });
        for slice in 0..400 {
            let on = slice % 2 == 1;
            active.store(on, Relaxed);
            let start = Instant::now();
            let mut best = f64::MAX;
            while start.elapsed() < Duration::from_millis(10) {
                best = best.min(pass(&mut worker, &reader, &keys));
            }
            if on { &mut busy } else { &mut still }.push(keys.len() as f64 / best);
        }
        active.store(false, Relaxed);
        stop.store(true, Relaxed);
        writer.join().expect("the writer")
    })?;
    Ok(Loss {
        lost: 1.0 - report::median(&busy) / report::median(&still),
        rate,
    })
}

fn pass<A: Addr>(worker: &mut Reader, reader: &TableReader<A>, keys: &[A]) -> f64 {
    let mut out = [0; BURST];
    let start = Instant::now();
    for burst in keys.chunks(BURST) {
        reader.lookup_burst(&worker.online(), burst, &mut out);
        std::hint::black_box(&mut out);
        worker.quiescent();
    }
    start.elapsed().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_witness_is_an_address_of_the_route() {
        let mut table = Table::<u32>::new(&Domain::new());
        let route = |addr: u32, len| Prefix::covering(addr, len);
        for (prefix, value) in [
            (route(0x0a00_0000, 8), 1),
            (route(0x0a00_0000, 16), 2),
            (route(0x0a00_0000, 17), 3),
            (route(0x0a00_8000, 17), 4),
        ] {
            table.insert(prefix, value).unwrap();
        }
        // The first address is in the /17 as well, the last one is not.
        let found = witness(&mut table, route(0x0a00_0000, 8), 1);
        assert_eq!(found, Some((0x0aff_ffff, NO_ROUTE)));
        let found = witness(&mut table, route(0x0a00_8000, 17), 4);
        assert_eq!(found, Some((0x0a00_8000, 2)));
        assert_eq!(witness(&mut table, route(0x0a00_0000, 16), 2), None);
        assert_eq!(table.len(), 4);
    }
}
