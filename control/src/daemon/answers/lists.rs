//! `acl show`.

use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::socket::{Code, ErrorBody};

impl Daemon {
    pub(super) fn acl_show(&self, wanted: Option<&str>) -> Result<Value, ErrorBody> {
        let mut lists = Vec::new();
        for (name, instance, is_there) in self.lists.iter() {
            if wanted.is_some_and(|wanted| wanted != name) {
                continue;
            }
            let image = instance.image();
            let counters = instance.counters();
            let mut rules: Vec<Value> = (0..image.rules())
                .map(|index| {
                    let origin = image.origin(index);
                    let count = counters.get(index).copied().unwrap_or_default();
                    json!({
                        "index": index,
                        "action": image.action(index).map(|action| action.name()),
                        "file": origin.map(|origin| &*origin.file),
                        "line": origin.map(|origin| origin.line),
                        "packets": count.packets,
                        "bytes": count.bytes,
                    })
                })
                .collect();
            // The default stands last, as rule -1.
            let default = counters.last().copied().unwrap_or_default();
            rules.push(json!({
                "index": -1,
                "action": image.default_action().name(),
                "file": null,
                "line": null,
                "packets": default.packets,
                "bytes": default.bytes,
            }));
            let mut ports = Vec::new();
            for (port, open) in &self.ports.open {
                for (direction, list) in [("ingress", &open.acl.ingress), ("egress", &open.acl.egress)] {
                    if list.as_deref() == Some(name) {
                        ports.push(json!({"port": port, "direction": direction}));
                    }
                }
            }
            lists.push(json!({
                "name": name,
                "default": image.default_action().name(),
                "missing": !is_there,
                "rules": rules,
                "ports": ports,
            }));
        }
        match wanted {
            Some(name) if lists.is_empty() => Err(ErrorBody::new(
                Code::NotFound,
                format!("there is no list {name:?}"),
            )),
            _ => Ok(json!({"schema": "margay.acl-show/1", "lists": lists})),
        }
    }
}
