//! ACL files: TOML to the classifier's model, with diagnostics that name file and line.
