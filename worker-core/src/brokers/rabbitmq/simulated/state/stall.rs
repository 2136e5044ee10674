//! A queue that stands still.

use super::State;

impl State {
    /// Lets this queue stand still, and all others move; with `None` all move.
    pub(in super::super) fn stall(&mut self, queue: Option<&str>) {
        self.stirred.extend(std::mem::take(&mut self.stalled));
        self.stalled.extend(queue.map(str::to_owned));
        // What has waited too long may go on, or may not.
        self.moved = true;
    }
}
