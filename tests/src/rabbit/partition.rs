//! Nodes of a cluster that lose sight of each other.

use super::Node;

impl Node {
    /// Cuts this node off from all others of its cluster, until they are [joined](Self::rejoin) again. Clients reach
    /// it all the same.
    ///
    /// Both sides forget the cookie that they share, so that Erlang refuses the connection that it closes here and
    /// every new one. Unlike a cable that is pulled, either side sees at once that the other is gone.
    ///
    /// # Panics
    ///
    /// When a node does not answer.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn part(&self, others: &[&Self]) {
        for other in others {
            other.eval(&format!("erlang:set_cookie('{}', parted)", self.name())).await;
        }
        let parted = "[begin erlang:set_cookie(N, parted), erlang:disconnect_node(N) end || N <- nodes()], ok";
        self.eval(parted).await;
    }

    /// Ends what [`part`](Self::part) began, and starts this node's broker anew, as RabbitMQ's guide tells operators
    /// to do with the side that they do not trust (<https://www.rabbitmq.com/docs/partitions#recovering>).
    ///
    /// # Panics
    ///
    /// When a node does not answer.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn rejoin(&self, others: &[&Self]) {
        for other in others {
            other.eval(&format!("erlang:set_cookie('{}', erlang:get_cookie())", self.name())).await;
            self.eval(&format!("erlang:set_cookie('{}', erlang:get_cookie())", other.name())).await;
        }
        self.stop_app().await;
        self.start_app().await;
    }
}
