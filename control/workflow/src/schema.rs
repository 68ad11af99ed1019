//! The JSON Schema of a workflow file, for editors.

use schemars::generate::SchemaSettings;

use crate::file::WorkflowFile;

/// The JSON Schema (draft 7, which editors know best) of a workflow file.
///
/// It is derived from the types into which a file is parsed, so it knows every key. It cannot know which names exist: a
/// file that it accepts may still be wrong, but a file that it rejects is wrong.
#[must_use]
pub fn schema() -> serde_json::Value {
    let mut schema = SchemaSettings::draft07().into_generator().into_root_schema_for::<WorkflowFile>();
    schema.insert("title".into(), "dflow workflow".into());
    schema.to_value()
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::Workflow;
    use crate::mutations::{GOOD, changed_file};
    use crate::report::Report;
    use crate::yaml::{self, Node, ScalarKind};

    fn validator() -> &'static jsonschema::Validator {
        static VALIDATOR: LazyLock<jsonschema::Validator> =
            LazyLock::new(|| jsonschema::draft7::new(&schema()).unwrap());
        &VALIDATOR
    }

    fn json_of(text: &str) -> Value {
        fn convert(node: &Node) -> Value {
            match &node.value {
                yaml::Value::List(items) => items.iter().map(|item| convert(item)).collect(),
                yaml::Value::Map(pairs) => Value::Object(
                    pairs.iter().map(|(key, value)| (key.text.clone().into_owned(), convert(value))).collect(),
                ),
                yaml::Value::Scalar(scalar) => match scalar.kind() {
                    ScalarKind::Null => Value::Null,
                    ScalarKind::Bool(value) => value.into(),
                    ScalarKind::Number => match scalar.text.parse::<i64>() {
                        Ok(number) => number.into(),
                        // Any fraction will do for a number that is not a decimal integer.
                        Err(_) => scalar.text.parse().unwrap_or(0.5).into(),
                    },
                    ScalarKind::Text => (*scalar.text).into(),
                },
            }
        }
        convert(&yaml::parse(text, &mut Report::new(text)).expect("valid YAML"))
    }

    fn assert_accepted(validator: &jsonschema::Validator, text: &str) {
        let json = json_of(text);
        let errors: Vec<String> =
            validator.iter_errors(&json).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(errors.is_empty(), "{errors:#?} in\n{text}");
    }

    #[test]
    fn is_a_schema_that_explains_every_key() {
        let schema = schema();
        jsonschema::draft7::meta::validate(&schema).unwrap();
        fn check(value: &Value, path: &str) -> usize {
            let properties = value.get("properties").and_then(Value::as_object);
            let own = properties.into_iter().flatten().filter(|(key, property)| {
                let description = property.get("description").and_then(Value::as_str).unwrap_or("");
                assert!(description.ends_with('.') && !description.contains('\n'), "{path}/{key}: {description:?}");
                true
            });
            let children: Vec<(String, &Value)> = match value {
                Value::Object(map) => map.iter().map(|(key, value)| (format!("{path}/{key}"), value)).collect(),
                Value::Array(list) => list.iter().map(|value| (format!("{path}[]"), value)).collect(),
                _ => Vec::new(),
            };
            own.count() + children.into_iter().map(|(path, value)| check(value, &path)).sum::<usize>()
        }
        assert_eq!(check(&schema, "#"), 51, "the number of keys");
    }

    #[test]
    fn accepts_good_files_and_examples() {
        let validator = validator();
        for text in GOOD {
            assert_accepted(validator, text);
        }
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../functions/examples");
        for folder in std::fs::read_dir(examples).unwrap() {
            for file in std::fs::read_dir(folder.unwrap().path()).into_iter().flatten() {
                let path = file.unwrap().path();
                if path.extension().is_none_or(|extension| extension != "yaml") {
                    continue;
                }
                let text = std::fs::read_to_string(&path).unwrap();
                if let Err(errors) = Workflow::parse(&path.display().to_string(), &text) {
                    panic!("{errors}");
                }
                assert_accepted(validator, &text);
            }
        }
    }

    #[test]
    fn rejects_wrong_files() {
        let validator = validator();
        let function = |function: &str| format!("workflow: w\nfunctions: {{ a: {function} }}\n");
        assert_accepted(validator, &function("{ program: x }"));
        let wrong = [
            "workflow: w\n".to_owned(),
            "functions: {}\n".to_owned(),
            "workflow: .w\nfunctions: {}\n".to_owned(),
            "workflow: w\nfunctions: {}\ninput: []\n".to_owned(),
            "workflow: w\nfunctions: {}\ninputs: text\n".to_owned(),
            "workflow: w\nfunctions: {}\ninputs: { a: { parts: lines } }\n".to_owned(),
            "workflow: w\nfunctions: { a/b: { program: x } }\n".to_owned(),
            function("{}"),
            function("{ program: x, command: [y] }"),
            function("{ program: 7 }"),
            function("{ porgram: x }"),
            function("{ command: sort }"),
            function("{ command: [] }"),
            function("{ program: x, timeout: 30 }"),
            function("{ program: x, timeout: soon }"),
            function("{ program: x, gate: hole }"),
            function("{ program: x, retries: { backoff: 1s } }"),
            function("{ program: x, retries: -1 }"),
            function("{ program: x, resources: { memory: 1 Gig } }"),
            function("{ program: x, resources: { cpu: 0 } }"),
            function("{ program: x, deterministic: yes }"),
            function("{ program: x, expect: { time: 1 } }"),
            function("{ program: x, outputs: [o], expect: { output: half } }"),
            function("{ program: x, expect: { parts: 0 } }"),
            "workflow: w\nfunctions: {}\ninputs: { a: { expect: { size: big } } }\n".to_owned(),
            function("{ command: [x], success: 1 }"),
            function("{ command: [x], success: [] }"),
            function("{ command: [x], success: [256] }"),
            function("{ program: x, inputs: { i: a b } }"),
            function("{ program: x, inputs: { i: { need: 0 } } }"),
            function("{ program: x, outputs: { o: { partition: 0 } } }"),
            function("{ program: x, outputs: { o: { partition: some } } }"),
            function("{ program: x, env: { DFLOW_X: 1 } }"),
            function("{ program: x, params: { k: null } }"),
            function("{ switch: a.b }"),
            function("{ switch: a.b, cases: { x: a }, program: x }"),
        ];
        for text in wrong {
            assert!(!validator.is_valid(&json_of(&text)), "accepted: {text}");
            assert!(Workflow::parse("w.yaml", &text).is_err(), "checked: {text}");
        }
    }

    proptest! {
        #[test]
        fn accepts_whatever_is_a_workflow(text in changed_file()) {
            if Workflow::parse("w.yaml", &text).is_ok() {
                assert_accepted(validator(), &text);
            }
        }
    }
}
