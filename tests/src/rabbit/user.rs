//! Users: their passwords, and what they may do.

use serde_json::json;

use super::{Node, api::escape, erlang::binary};

impl Node {
    /// Makes a user without any permission.
    ///
    /// # Panics
    ///
    /// When the node refuses.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn create_user(&self, name: &str, password: &str) {
        let body = json!({"password": password, "tags": ""});
        self.api().ask("PUT", &format!("users/{}", escape(name)), Some(&body)).await;
    }

    /// Gives a user another password. Its connections stay.
    ///
    /// # Panics
    ///
    /// When there is no such user.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn change_password(&self, user: &str, password: &str) {
        let (user, password) = (binary(user), binary(password));
        let changed = format!("ok = rabbit_auth_backend_internal:change_password({user}, {password}, <<\"tests\">>)");
        self.eval(&changed).await;
    }

    /// Lets a user do in a virtual host what these regular expressions allow.
    ///
    /// # Panics
    ///
    /// When there is no such user or virtual host.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn set_permissions(&self, user: &str, vhost: &str, configure: &str, write: &str, read: &str) {
        let body = json!({"configure": configure, "write": write, "read": read});
        self.api().ask("PUT", &permissions(user, vhost), Some(&body)).await;
    }

    /// Takes from a user all it may do in a virtual host.
    ///
    /// A channel asks again within 15 s or when it does something it has not done before.
    ///
    /// # Panics
    ///
    /// When there is nothing to take.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn clear_permissions(&self, user: &str, vhost: &str) {
        self.api().ask("DELETE", &permissions(user, vhost), None).await;
    }
}

fn permissions(user: &str, vhost: &str) -> String {
    format!("permissions/{}/{}", escape(vhost), escape(user))
}
