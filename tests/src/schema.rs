//! Every JSON object that a lab reads is checked against its schema in `docs/schema/`.
//!
//! A schema lets a client accept fields that a later version adds. The labs are stricter: a field that the schema does not describe
//! fails the lab, so that nothing is answered which is not documented.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use jsonschema::{Registry, Validator};
use serde_json::Value;

/// The folder of the schemas.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schema")
}

/// All schemas as they are written, by the name in their `schema` field.
///
/// # Panics
/// When a file cannot be read or is no JSON.
pub fn files() -> BTreeMap<String, Value> {
    let entries = fs::read_dir(folder()).expect("docs/schema is there");
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("a schema can be read");
        let schema: Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        let name = file
            .strip_suffix(".1.json")
            .unwrap_or_else(|| panic!("{file}: a schema is called margay.NAME.1.json"));
        (format!("{name}/1"), schema)
    };
    entries.flatten().map(|entry| read(entry.path())).collect()
}

/// Checks one answer, error or line of a stream. `what` says where it comes from.
///
/// # Panics
/// When it has no schema, or is not as its schema says.
#[track_caller]
pub fn check(what: &str, value: &Value) {
    static VALIDATORS: OnceLock<BTreeMap<String, Validator>> = OnceLock::new();
    let validators = VALIDATORS.get_or_init(validators);
    let name = value["schema"].as_str().unwrap_or_default();
    let validator = validators.get(name).unwrap_or_else(|| {
        let text: String = value.to_string().chars().take(400).collect();
        panic!("{what}: docs/schema has no file for the schema {name:?} of {text}")
    });
    let mut errors = validator.iter_errors(value).take(5).peekable();
    if errors.peek().is_some() {
        let lines: Vec<String> = errors
            .map(|error| {
                let text: String = error.to_string().chars().take(400).collect();
                format!("{} at {:?}", text, error.instance_path().to_string())
            })
            .collect();
        panic!("{what} is not as {name} says:\n{}", lines.join("\n"));
    }
}

/// Checks every line of what `margay -j` has printed to one of its streams.
///
/// # Panics
/// When a line is no JSON, or not as its schema says.
#[track_caller]
pub fn check_lines(what: &str, text: &str) -> Vec<Value> {
    let lines = text.lines().map(|line| {
        let value: Value = serde_json::from_str(line)
            .unwrap_or_else(|error| panic!("{what} printed a line that is no JSON: {error}: {line}"));
        check(what, &value);
        value
    });
    lines.collect()
}

/// The exit status that goes with the code of an error.
///
/// # Panics
/// When no error has such a code.
#[track_caller]
pub fn exit_status(code: &str) -> i32 {
    match code {
        "failed" | "busy" | "not_ready" | "bad_request" | "request_too_large" => 1,
        "unknown_command" | "bad_argument" => 2,
        "not_found" => 3,
        "not_reachable" => 4,
        "not_permitted" => 5,
        "bad_configuration" | "bad_acl" => 6,
        "not_met" => 7,
        other => panic!("no error has the code {other:?}"),
    }
}

fn validators() -> BTreeMap<String, Validator> {
    let mut schemas = files();
    schemas.values_mut().for_each(close);
    let mut registry = Registry::new();
    for schema in schemas.values() {
        let id = schema["$id"].as_str().unwrap_or_default();
        registry = registry.add(id, schema.clone()).expect("the $id is a URI");
    }
    let registry = registry.prepare().expect("references lead to schemas");
    let build = |(name, schema): (&String, &Value)| {
        let validator = jsonschema::options()
            .with_registry(&registry)
            .should_validate_formats(true)
            .build(schema)
            .unwrap_or_else(|error| panic!("the schema of {name}: {error}"));
        (name.clone(), validator)
    };
    schemas.iter().map(build).collect()
}

/// Forbids fields that the schema does not describe.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            if members.contains_key("properties") && members.contains_key("type") {
                members
                    .entry("additionalProperties")
                    .or_insert(Value::Bool(false));
            }
            members.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    #[test]
    fn schemas_are_schemas_and_named_after_their_files() {
        let files = files();
        assert!(files.len() > 20, "{:?}", files.keys());
        for (name, schema) in &files {
            if let Err(error) = jsonschema::draft202012::meta::validate(schema) {
                panic!("{name}: {error}");
            }
            assert_eq!(schema["title"], name.as_str());
            assert_eq!(
                schema["$id"],
                format!("margay:/schema/{}.json", name.replace('/', "."))
            );
            assert!(schema["description"].is_string(), "{name}");
        }
        assert_eq!(validators().len(), files.len());
    }

    /// Every schema that the code names has a file, every file is named by the code, and docs/socket.md links the folder.
    #[test]
    fn the_code_and_the_folder_name_the_same_schemas() {
        let mut named = BTreeSet::new();
        let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../control/src")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("the sources are there").flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                if path.ends_with("tests.rs") {
                    continue;
                }
                let text = fs::read_to_string(&path).expect("a source file can be read");
                for part in text.split("\"margay.").skip(1) {
                    let name = part.split('"').next().unwrap_or_default().trim_end_matches('\\');
                    if let Some(name) = name.strip_suffix("/1") {
                        named.insert(format!("margay.{name}/1"));
                    }
                }
            }
        }
        let files: BTreeSet<String> = files().into_keys().collect();
        assert_eq!(named, files);
    }

    #[test]
    fn what_is_not_as_the_schema_says_is_found() {
        let good = json!({"schema": "margay.release/1", "released": ["eth1"]});
        check("a good answer", &good);
        let with = |key: &str, value: Value| {
            let mut bad = good.clone();
            bad[key] = value;
            bad
        };
        let error = json!({"schema": "margay.error/1", "code": "not_found", "message": "x"});
        check("a good error", &error);
        for bad in [
            with("released", json!("eth1")),
            with("released", json!([7])),
            with("undocumented", json!(1)),
            with("schema", json!("margay.nosuch/1")),
            json!({"schema": "margay.release/1"}),
            json!({"schema": "margay.error/1", "code": "fell_over", "message": "x"}),
            json!({"schema": "margay.monitor/1", "event": "lost"}),
            json!({"schema": "margay.route-get/1", "route": {"prefix": "10.0.0.0/8"}, "nexthop": null}),
            json!([]),
        ] {
            let outcome = std::panic::catch_unwind(|| check("a bad answer", &bad));
            assert!(outcome.is_err(), "{bad}");
        }
    }
}
