//! Runs the rounds of all sides in turn, so that other activity on the machine affects all sides.

use std::ops::AsyncFnMut;

use tokio::runtime::Runtime;

pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// The runtime and the mode of all rows.
pub(crate) struct Bench {
    pub(crate) runtime: Runtime,
    pub(crate) quick: bool,
}

/// One way of doing a row's work. Each call is one round and returns one figure.
pub(crate) type Side<'a> = Box<dyn FnMut() -> Result<f64> + 'a>;

/// The figures of all rounds of a side.
pub(crate) type Figures = Vec<f64>;

/// Selects the runtime of a process, as the value of an environment variable.
pub(crate) const RUNTIME: &str = "TIELINE_BENCH_RUNTIME";
/// The value for the runtime with a worker for each core.
pub(crate) const MULTI_THREAD: &str = "multi-thread";

/// Creates the runtime of this process. It is Tokio's current-thread runtime unless the environment
/// selects the other one.
pub(crate) fn runtime() -> Result<Runtime> {
    let mut builder = match std::env::var(RUNTIME) {
        Ok(it) if it == MULTI_THREAD => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    Ok(builder.enable_all().build()?)
}

impl Bench {
    /// Returns the number of rounds, at least seven.
    pub(crate) fn rounds(&self) -> usize {
        if self.quick { 7 } else { 31 }
    }

    /// Creates a side that runs its rounds on the runtime.
    pub(crate) fn side<'a>(&'a self, mut round: impl AsyncFnMut() -> Result<f64> + 'a) -> Side<'a> {
        Box::new(move || self.runtime.block_on(round()))
    }

    /// Runs rounds of all sides in turn, after a warm-up round whose figure is discarded. Returns each
    /// side's figures.
    pub(crate) fn interleave<const N: usize>(&self, sides: [Side<'_>; N]) -> Result<[Figures; N]> {
        let (figures, _) = self.interleave_with(sides, Vec::new())?;
        Ok(figures)
    }

    /// Like [`interleave`](Self::interleave), with any number of additional sides after the fixed ones.
    pub(crate) fn interleave_with<'a, const N: usize>(
        &self,
        mut sides: [Side<'a>; N],
        mut more: Vec<Side<'a>>,
    ) -> Result<([Figures; N], Vec<Figures>)> {
        let mut figures = std::array::from_fn(|_| Vec::new());
        let mut of_more = vec![Vec::new(); more.len()];
        for side in sides.iter_mut().chain(&mut more) {
            side()?;
        }
        for _ in 0..self.rounds() {
            let all = sides.iter_mut().zip(&mut figures);
            for (side, figures) in all.chain(more.iter_mut().zip(&mut of_more)) {
                figures.push(side()?);
            }
        }
        Ok((figures, of_more))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn sides_take_turns_and_the_first_round_is_discarded() {
        let bench = Bench { runtime: runtime().unwrap(), quick: true };
        let order = RefCell::new(String::new());
        let side = |name| {
            let order = &order;
            bench.side(async move || {
                order.borrow_mut().push(name);
                Ok(order.borrow().len() as f64)
            })
        };
        let [a, b] = bench.interleave([side('A'), side('B')]).unwrap();
        assert_eq!(order.borrow().as_str(), "ABABABABABABABAB");
        assert_eq!((a.len(), b.len()), (7, 7));
        assert_eq!((a[0], b[0]), (3.0, 4.0));
    }

    #[test]
    fn additional_sides_come_after_the_others() {
        let bench = Bench { runtime: runtime().unwrap(), quick: true };
        let side = |figure| bench.side(async move || Ok(figure));
        let (figures, more) =
            bench.interleave_with([side(1.0)], vec![side(2.0), side(3.0)]).unwrap();
        assert_eq!((figures, more), ([vec![1.0; 7]], vec![vec![2.0; 7], vec![3.0; 7]]));
        let (_, more) = bench.interleave_with([side(1.0)], Vec::new()).unwrap();
        assert!(more.is_empty());
    }
}
