//! The answer of `/v1/health/service/<name>` as Consul writes it, read row by row.
//!
//! One row of a wrong shape is told with what can be made out of it, and never spoils the others.

use std::collections::BTreeMap;

use meshwork_core::Error;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{errors, meta::Meta};

/// The health of an instance, from all checks but maintenance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Health {
    Passing,
    Warning,
    Critical,
}

/// One instance of a service on one node.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Row {
    pub(crate) node: Node,
    pub(crate) service: Service,
    #[serde(default)]
    checks: Option<Vec<Check>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Node {
    pub(crate) node: String,
    #[serde(default)]
    pub(crate) address: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Service {
    #[serde(rename = "ID")]
    pub(crate) id: String,
    #[serde(rename = "Service")]
    pub(crate) name: String,
    #[serde(rename = "Tags", default)]
    pub(crate) tags: Option<Vec<String>>,
    #[serde(rename = "Address", default)]
    pub(crate) address: String,
    #[serde(rename = "TaggedAddresses", default)]
    pub(crate) tagged: Option<BTreeMap<String, Tagged>>,
    #[serde(rename = "Meta", default)]
    pub(crate) meta: Option<Meta>,
    #[serde(rename = "Port", default)]
    pub(crate) port: i64,
    #[serde(rename = "Weights", default)]
    pub(crate) weights: Option<Weights>,
    #[serde(rename = "Locality", default)]
    pub(crate) locality: Option<Locality>,
    #[serde(rename = "ModifyIndex", default)]
    pub(crate) modified: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Tagged {
    #[serde(default)]
    pub(crate) address: String,
    #[serde(default)]
    pub(crate) port: i64,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Weights {
    pub(crate) passing: i64,
    #[serde(default)]
    pub(crate) warning: i64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Locality {
    #[serde(default)]
    pub(crate) region: String,
    #[serde(default)]
    pub(crate) zone: String,
}

#[derive(Debug, Deserialize)]
struct Check {
    #[serde(rename = "CheckID", default)]
    id: String,
    #[serde(rename = "Status", default)]
    status: String,
}

/// What is left of a row that could not be read.
#[derive(Debug)]
pub(crate) struct Unread {
    pub(crate) node: Option<String>,
    pub(crate) id: Option<String>,
    pub(crate) cause: serde_json::Error,
}

impl Row {
    /// The worst of all checks of node and service but maintenance; passing without any.
    pub(crate) fn health(&self) -> Health {
        let judge = |check: &Check| match check.status.as_str() {
            "passing" => Health::Passing,
            "warning" => Health::Warning,
            _ => Health::Critical,
        };
        let checks = self.checks.iter().flatten().filter(|check| !check.is_maintenance());
        checks.map(judge).max().unwrap_or(Health::Passing)
    }

    /// Whether an operator, or the instance itself, has taken it or its node out.
    pub(crate) fn is_in_maintenance(&self) -> bool {
        self.checks.iter().flatten().any(Check::is_maintenance)
    }
}

impl Check {
    fn is_maintenance(&self) -> bool {
        self.id == "_node_maintenance"
            || self.id.starts_with("_service_maintenance:")
            || self.status == "maintenance"
    }
}

/// All rows of an answer.
///
/// # Errors
/// `Protocol` when the answer is no list.
pub(crate) fn parse(body: &[u8], attempted: &str) -> Result<Vec<Result<Row, Unread>>, Error> {
    let rows: Option<Vec<&RawValue>> =
        serde_json::from_slice(body).map_err(|e| errors::of_content(attempted, e, body))?;
    Ok(rows.unwrap_or_default().into_iter().map(row).collect())
}

fn row(raw: &RawValue) -> Result<Row, Unread> {
    serde_json::from_str(raw.get()).map_err(|cause| {
        let loose: serde_json::Value = serde_json::from_str(raw.get()).unwrap_or_default();
        let text = |part: &str, key: &str| loose[part][key].as_str().map(str::to_owned);
        Unread { node: text("Node", "Node"), id: text("Service", "ID"), cause }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(json: &str) -> Vec<Result<Row, Unread>> {
        parse(json.as_bytes(), "testing").unwrap()
    }

    #[test]
    fn one_bad_row_does_not_spoil_the_others() {
        let read = rows(
            r#"[{"Node":{"Node":"n1"},"Service":{"ID":"a","Service":"users","Port":1}},
                {"Node":{"Node":"n2"},"Service":{"ID":"b","Service":"users","Port":"x"}},
                7]"#,
        );
        assert_eq!(read[0].as_ref().unwrap().service.id, "a");
        let bad = read[1].as_ref().unwrap_err();
        assert_eq!((bad.node.as_deref(), bad.id.as_deref()), (Some("n2"), Some("b")));
        assert!(read[2].as_ref().unwrap_err().id.is_none());
        assert!(rows("null").is_empty());
        assert!(parse(b"<html>", "x").is_err() && parse(b"[{", "x").is_err());
    }

    #[test]
    fn health_is_the_worst_check_and_maintenance_is_apart() {
        let of = |checks: &str| {
            let json = format!(
                r#"[{{"Node":{{"Node":"n"}},"Service":{{"ID":"a","Service":"u"}},"Checks":{checks}}}]"#
            );
            let row = rows(&json).remove(0).unwrap();
            (row.health(), row.is_in_maintenance())
        };
        assert_eq!(of("null"), (Health::Passing, false));
        assert_eq!(of("[]"), (Health::Passing, false));
        let node = r#"{"CheckID":"serfHealth","Status":"critical"}"#;
        let own = r#"{"CheckID":"a:ttl","Status":"passing"}"#;
        let maint = r#"{"CheckID":"_service_maintenance:a","Status":"critical"}"#;
        assert_eq!(of(&format!("[{node},{own}]")), (Health::Critical, false));
        assert_eq!(of(&format!("[{own},{maint}]")), (Health::Passing, true));
        assert_eq!(of(r#"[{"CheckID":"x","Status":"warning"}]"#), (Health::Warning, false));
        assert_eq!(of(r#"[{"CheckID":"x","Status":"strange"}]"#), (Health::Critical, false));
    }
}
