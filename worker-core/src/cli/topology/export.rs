//! `topology export`: what the program needs, in the words of RabbitMQ's own tools. It asks no broker.

use clap::{Args, ValueEnum};

use super::{
    Chosen,
    definitions::definitions,
    kubernetes::{Cluster, resources},
};
use crate::{
    cli::{exit, fail::Fail, out::Out},
    config::{Settings, Target},
    registry::Registry,
};

/// Write down what the program needs, for RabbitMQ's own tools
#[derive(Debug, Args)]
#[command(after_help = r#"It asks no broker; the address in --broker or WORKER_BROKER_URL only names the
virtual host. What is exported includes the queues for retries and delays.

Formats:
  definitions  JSON for `rabbitmqctl import_definitions FILE`, the management
               page or `load_definitions`; the virtual host must exist
  k8s          Queue, Exchange and Binding of the messaging topology operator
               (rabbitmq.com/v1beta1), as YAML. Deleting a resource deletes its
               queue, with the jobs in it

Examples:
  myapp topology export --broker amqp://rabbit/shop > definitions.json
  myapp topology export --broker amqp://rabbit/shop --format k8s \
    --cluster rabbit | kubectl -n jobs apply -f -"#)]
pub(super) struct ExportArgs {
    #[command(flatten)]
    chosen: Chosen,
    /// In which form
    #[arg(long, value_name = "FORMAT", default_value = "definitions")]
    format: Format,
    /// The virtual host [default: that of the broker's URL]
    #[arg(long, value_name = "NAME")]
    vhost: Option<String>,
    /// The RabbitmqCluster that gets them, in another namespace as NAMESPACE/NAME [default: none;
    /// `--format k8s` needs it]
    #[arg(long, value_name = "NAME", required_if_eq("format", "k8s"))]
    cluster: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// JSON that RabbitMQ imports
    Definitions,
    /// YAML for the messaging topology operator
    K8s,
}

pub(super) fn export(
    args: &ExportArgs,
    settings: &Settings,
    registry: &Registry,
    name: &str,
    out: Out,
) -> Result<u8, Fail> {
    let Target::Amqp(url) = settings.broker_url.target() else {
        let message = format!(
            "`topology export` writes down what a RabbitMQ server must have, and the jobs are in `{}`, where the program itself makes what it needs",
            settings.broker_url
        );
        let hint =
            format!("name the server: `{name} topology export --broker amqp://HOST/VHOST`; it is not connected to");
        return Err(Fail::new(exit::CONFIG, message).hint(hint));
    };
    let vhost = args.vhost.as_deref().unwrap_or(&url.vhost);
    let plan = args.chosen.plan(settings, registry)?;
    match (args.format, &args.cluster) {
        (Format::K8s, Some(cluster)) => out.text(&resources(&plan, vhost, &Cluster::parse(cluster)?)?)?,
        _ => out.json(&definitions(&plan, vhost))?,
    }
    Ok(exit::OK)
}
