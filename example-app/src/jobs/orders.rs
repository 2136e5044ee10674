//! Orders: the whole message as one value, state, and a job that enqueues another.

use serde::{Deserialize, Serialize};
use worker_core::{Client, prelude::*};

use crate::state::Mailer;

/// An order, as the web service and Python programs publish it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Order {
    /// The order's number.
    pub(crate) order_id: u64,
    /// Who gets the receipt.
    #[serde(default)]
    pub(crate) customer: Option<String>,
    /// What was ordered.
    #[serde(default)]
    pub(crate) items: Vec<String>,
    /// The price in cents.
    #[serde(default)]
    pub(crate) total_cents: u64,
}

/// Books one order and sends a receipt.
#[job(queue = "orders", max_retries = 5, backoff = "1s..1m", timeout = "30s")]
pub(crate) async fn process_order(Payload(order): Payload<Order>, client: State<Client>, cx: Context) -> JobResult {
    if order.order_id == 0 {
        return Err(JobError::discard("order 0 does not exist"));
    }
    tracing::info!(order_id = order.order_id, items = order.items.len(), "order booked");
    if let Some(customer) = order.customer {
        // One id per order: should this attempt be repeated, the receipt keeps its identity.
        let id = format!("receipt-{}", cx.id()).parse()?;
        client.enqueue(send_receipt::new(order.order_id, customer).id(id)).await?;
    }
    Ok(())
}

/// Sends one receipt.
#[job(queue = "mail", max_retries = 8, backoff = "2s..10m", timeout = "30s")]
pub(crate) async fn send_receipt(order_id: u64, to: String, mailer: State<Mailer>) -> JobResult {
    mailer.send(&to, &format!("your order {order_id}")).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use worker_core::{Registry, assert_enqueued, testing::TestQueue};

    use super::*;

    fn order(order_id: u64) -> Order {
        Order { order_id, customer: Some("ada@example.com".into()), items: vec!["tea".into()], total_cents: 450 }
    }

    #[tokio::test]
    async fn an_order_leads_to_one_receipt() {
        let registry = Registry::new().with::<process_order>().with::<send_receipt>();
        let mut t = TestQueue::builder().registry(registry).state(Mailer::default()).build();
        t.client().enqueue(process_order::new(order(7))).await.unwrap();
        assert_eq!(t.run_due().await.summary(), "2 succeeded, 0 retried, 0 dead");
    }

    #[tokio::test]
    async fn the_receipt_goes_to_the_customer() {
        let t = TestQueue::new();
        process_order(Payload(order(7)), State::new(t.client()), Context::test()).await.unwrap();
        assert_enqueued!(t, send_receipt { order_id: 7, to: "ada@example.com" });
    }

    #[tokio::test]
    async fn an_order_that_cannot_be_is_dead_lettered_at_once() {
        let registry = Registry::new().with::<process_order>().with::<send_receipt>();
        let mut t = TestQueue::builder().registry(registry).state(Mailer::default()).build();
        t.client().enqueue(process_order::new(order(0))).await.unwrap();
        assert_eq!(t.drain().await.summary(), "0 succeeded, 0 retried, 1 dead");
        assert_eq!(t.dead_letters().await[0].failure.message, "order 0 does not exist");
    }

    #[test]
    fn a_python_programs_message_is_an_order() {
        let order: Order =
            serde_json::from_str(r#"{"order_id": 1001, "note": "unknown fields are let pass"}"#).unwrap();
        assert_eq!(order.order_id, 1001);
    }
}
