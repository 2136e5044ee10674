//! Virtual hosts: a world of its own for each test on one node.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use serde_json::json;
use tokio::runtime::Builder;

use super::{
    Node,
    api::{Api, HARNESS, escape},
};

impl Node {
    /// Makes a virtual host that `guest` may do everything in.
    ///
    /// # Panics
    ///
    /// When the node refuses.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn create_vhost(&self, name: &str) {
        let vhost = escape(name);
        self.api().ask("PUT", &format!("vhosts/{vhost}"), None).await;
        let all = json!({"configure": ".*", "write": ".*", "read": ".*"});
        for user in ["guest", "harness"] {
            self.api().ask("PUT", &format!("permissions/{vhost}/{user}"), Some(&all)).await;
        }
    }

    /// Deletes a virtual host with all that is in it.
    ///
    /// # Panics
    ///
    /// When the node refuses.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn delete_vhost(&self, name: &str) {
        self.api().ask("DELETE", &format!("vhosts/{}", escape(name)), None).await;
    }

    /// Makes a virtual host with a name that no other has, deleted with what is returned.
    ///
    /// # Panics
    ///
    /// When the node refuses.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn fresh_vhost(&self) -> Vhost {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("v{}", MADE.fetch_add(1, Ordering::Relaxed));
        self.create_vhost(&name).await;
        Vhost { url: self.url(&name), name, api: self.api() }
    }
}

/// A virtual host that is deleted when this is dropped.
#[derive(Debug)]
pub struct Vhost {
    name: String,
    url: String,
    api: Api,
}

impl Vhost {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where `guest` reaches it.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Vhost {
    /// Only makes room: nothing waits for it, and a node that is gone has no room to make.
    fn drop(&mut self) {
        let (api, path) = (self.api, format!("vhosts/{}", escape(&self.name)));
        thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            drop(runtime.block_on(api.request(HARNESS, "DELETE", &path, None)));
        });
    }
}
