//! The cost of taking a line from an uncontended pool and returning it, including the check for leftover
//! data.

use std::sync::Arc;
use std::time::Instant;

use tieline_link::{Pool, PoolConfig};
use tieline_proto::Lines;

use crate::compare::{Bench, Result};
use crate::peer::{Peer, connector};
use crate::report::{Goal, TableLine, Unit};
use crate::stats::Spread;

const TIMES: u32 = 20_000;
const GOAL: Goal = Goal::AtMost(1e-6, Unit::Time);

pub(super) fn run(bench: &Bench) -> Result<Vec<TableLine>> {
    let peer = Peer::start("memory-typed")?;
    let connector = Arc::new(connector(peer.socket(), Lines::default())?);
    let pool = Pool::new(connector, PoolConfig::default())?;
    let uncontended = bench.side(async || round(&pool).await);
    let [uncontended] = bench.interleave([uncontended])?;
    let median = Spread::of(uncontended).median;
    let work = "pool of Unix lines, take one and give it back";
    Ok(vec![TableLine::alone(work, Unit::Time, median, Some(GOAL))])
}

async fn round(pool: &Pool) -> Result<f64> {
    let begun = Instant::now();
    for _ in 0..TIMES {
        pool.get().await?.give_back();
    }
    let each = begun.elapsed().as_secs_f64() / f64::from(TIMES);
    match pool.stats() {
        stats if stats.connected == 1 => Ok(each),
        stats => Err(format!("the pool did not reuse its line: {stats:?}").into()),
    }
}
