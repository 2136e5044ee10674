//! `config`: every setting with its value and where that comes from.

use clap::Args;
use serde::Serialize;

use crate::{
    cli::{
        exit,
        fail::Fail,
        out::Out,
        table::{Column, Table},
    },
    config::{Entry, Settings},
};

/// Show every setting with its value and where that comes from
#[derive(Debug, Args)]
#[command(after_help = r#"Flags win over variables, variables over what the application sets, that over
the defaults. Durations have a unit (`30s`, `5m`, `1h 30m`). A secret can be
read from a file: WORKER_BROKER_URL_FILE=/run/secrets/broker-url. User and
password in a URL are not shown. With the feature `rabbitmq` the broker is also
taken from RABBITMQ_URL, AMQP_URL, CLOUDAMQP_URL, or from RABBITMQ_HOST,
RABBITMQ_USER, RABBITMQ_PASSWORD and so on.

JSON:
  {"settings": [{"name", "variable", "value", "origin", "from", "meaning",
   "form", "default"}], "warnings": [text]}
  origin is default, application, environment, file or flag; from says which"#)]
pub(super) struct ConfigArgs {
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    settings: Vec<Row<'a>>,
    warnings: &'a [String],
}

#[derive(Serialize)]
struct Row<'a> {
    name: &'static str,
    variable: &'static str,
    value: &'a str,
    origin: String,
    from: String,
    meaning: &'static str,
    form: &'static str,
    default: &'static str,
}

pub(super) fn config(args: &ConfigArgs, settings: &Settings, out: Out) -> Result<u8, Fail> {
    let rows = settings.entries().iter().map(row);
    if args.json {
        out.json(&Document { settings: rows.collect(), warnings: settings.warnings() })?;
        return Ok(exit::OK);
    }
    let mut table = Table::new([Column::text("VARIABLE"), Column::wrapped("VALUE"), Column::text("FROM")]);
    for row in rows {
        table.row([row.variable.into(), row.value.into(), row.from]);
    }
    out.table(&table)?;
    Ok(exit::OK)
}

fn row(entry: &Entry) -> Row<'_> {
    Row {
        name: entry.setting.name,
        variable: entry.setting.variable,
        value: &entry.text,
        origin: entry.origin.to_string(),
        from: entry.origin_text(),
        meaning: entry.setting.meaning,
        form: entry.setting.form,
        default: entry.setting.default,
    }
}
