//! The one node of a test process on which all tests that do it no harm have their places.

use std::{sync::OnceLock, thread};

use tokio::runtime::Builder;

use super::{Node, Vhost};

/// The node that all tests of this process share, started by the first of them.
///
/// It ends with the process. Do nothing to it that others notice: what they
/// have of it is a [`Vhost`] each.
///
/// The calling thread waits while the node starts; a test has done nothing
/// before, so that its runtime has nothing else to do.
///
/// # Panics
///
/// When it does not start.
pub fn shared_node() -> &'static Node {
    // A failure is kept too: it took two minutes.
    static SHARED: OnceLock<Option<Node>> = OnceLock::new();
    let node = SHARED.get_or_init(|| aside(Node::start()));
    node.as_ref().expect("the shared node has started, see the first failure")
}

/// A virtual host of its own on the [`shared_node`], for those who cannot wait asynchronously.
///
/// # Panics
///
/// When there is none.
pub fn shared_vhost() -> Vhost {
    let node = shared_node();
    aside(node.fresh_vhost()).expect("a virtual host can be made")
}

/// The same with a user of its own, who may do in it what these regular expressions allow: configure, write, read.
///
/// # Panics
///
/// As [`shared_vhost`].
pub fn shared_vhost_for(password: &str, [configure, write, read]: [&str; 3]) -> Vhost {
    let node = shared_node();
    let making = async {
        let vhost = node.fresh_vhost().await;
        node.create_user(vhost.name(), password).await;
        node.set_permissions(vhost.name(), vhost.name(), configure, write, read).await;
        vhost
    };
    aside(making).expect("a virtual host and a user can be made")
}

/// Waits for `work` on a thread of its own, which a runtime of the caller's does not mind; `None` if it panicked.
fn aside<T: Send>(work: impl Future<Output = T> + Send) -> Option<T> {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    thread::scope(|scope| scope.spawn(move || runtime.block_on(work)).join().ok())
}
