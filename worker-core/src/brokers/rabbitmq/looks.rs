//! Questions to the server that many ask at the same time, asked once.
//!
//! Each costs a channel, of which a connection has 2,047: five thousand first publishes at once would use them up,
//! and the connection with them.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// Looks at things, one at a time for each.
#[derive(Debug)]
pub(super) struct Looks<T> {
    began: AtomicU64,
    turns: Mutex<HashMap<String, Turn<T>>>,
}

/// Held by who looks; what was found out last, and when that was begun.
type Turn<T> = Arc<tokio::sync::Mutex<Option<(u64, T)>>>;

impl<T> Default for Looks<T> {
    fn default() -> Self {
        Self { began: AtomicU64::new(0), turns: Mutex::default() }
    }
}

impl<T: Copy> Looks<T> {
    /// What `look` finds, or that of another which began after this was asked.
    ///
    /// # Errors
    ///
    /// Those of `look`, which are this one's alone.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: another looks then.
    pub(super) async fn shared<E>(&self, name: &str, look: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let asked = self.began.fetch_add(1, Ordering::SeqCst);
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry(name.to_owned()).or_default())
        };
        let mut last = turn.lock().await;
        if let Some((began, found)) = *last
            && began > asked
        {
            return Ok(found);
        }
        let began = self.began.fetch_add(1, Ordering::SeqCst);
        let found = look.await?;
        *last = Some((began, found));
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::future::join_all;
    use tokio::task::yield_now;

    use super::*;

    #[tokio::test]
    async fn a_thousand_that_ask_at_once_look_twice_at_most_and_all_are_answered() {
        let (looks, count) = (Looks::default(), Cell::new(0));
        let look = || async {
            count.set(count.get() + 1);
            yield_now().await;
            Ok::<_, ()>(true)
        };
        let answers = join_all((0..1_000).map(|_| looks.shared("events", look()))).await;
        assert!(answers.iter().all(|answer| *answer == Ok(true)));
        assert!(count.get() <= 2, "{}", count.get());
        looks.shared("events", look()).await.unwrap();
        assert!(count.get() >= 2, "what was found before it was asked is no answer");
    }

    #[tokio::test]
    async fn a_failure_is_told_to_one_and_the_next_looks_itself() {
        let (looks, count) = (Looks::default(), Cell::new(0));
        let look = || async {
            count.set(count.get() + 1);
            let first = count.get() == 1;
            yield_now().await;
            if first { Err("gone") } else { Ok(true) }
        };
        let answers = join_all((0..10).map(|_| looks.shared("events", look()))).await;
        assert_eq!(answers.iter().filter(|answer| answer.is_err()).count(), 1);
        assert!(count.get() <= 3);
    }
}
