//! The parameters of a run.

use std::collections::BTreeMap;

use crate::limits::MAX_TEXT_BYTES;
use crate::model::Workflow;
use crate::nearest::nearest;

/// Why the given parameters do not fit a workflow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParamError {
    /// The workflow has no parameter of this name.
    #[error("workflow `{workflow}` has no parameter `{name}`; {}", known_params(.nearest.as_deref(), .known))]
    Unknown {
        /// The workflow.
        workflow: String,
        /// The name that was given.
        name: String,
        /// The most similar parameter of the workflow.
        nearest: Option<String>,
        /// All parameters of the workflow.
        known: Vec<String>,
    },
    /// Parameters without a default are missing.
    #[error("workflow `{workflow}` needs a value for {}; give it as NAME=VALUE", listed(.names))]
    Missing {
        /// The workflow.
        workflow: String,
        /// The parameters.
        names: Vec<String>,
    },
    /// A parameter is given more than once.
    #[error("parameter `{name}` is given twice; give it once")]
    Twice {
        /// The parameter.
        name: String,
    },
    /// A value cannot be passed to a program.
    #[error("the value of parameter `{name}` {problem}")]
    Value {
        /// The parameter.
        name: String,
        /// The problem with its value.
        problem: String,
    },
}

impl Workflow {
    /// The value of every parameter of the workflow: the given one, or else its default.
    ///
    /// # Errors
    /// If a name is unknown or given twice, a value cannot be passed to a program, or a parameter without a default is
    /// missing.
    pub fn resolve_params(&self, given: &[(String, String)]) -> Result<BTreeMap<String, String>, ParamError> {
        let mut values: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in given {
            if !self.params.contains_key(name) {
                return Err(ParamError::Unknown {
                    workflow: self.name.clone(),
                    name: name.clone(),
                    nearest: nearest(name, self.params.keys().map(String::as_str)).map(Into::into),
                    known: self.params.keys().cloned().collect(),
                });
            }
            let problem = |problem: String| Err(ParamError::Value { name: name.clone(), problem });
            if value.contains('\0') {
                return problem("contains a NUL byte, which cannot be passed to a program".into());
            }
            if value.len() > MAX_TEXT_BYTES {
                let length = value.len();
                return problem(format!("has {length} bytes, at most {MAX_TEXT_BYTES} are possible; make it an input"));
            }
            if values.insert(name.clone(), value.clone()).is_some() {
                return Err(ParamError::Twice { name: name.clone() });
            }
        }
        let mut missing = Vec::new();
        for (name, default) in &self.params {
            match default {
                _ if values.contains_key(name) => {}
                Some(default) => {
                    values.insert(name.clone(), default.clone());
                }
                None => missing.push(name.clone()),
            }
        }
        if missing.is_empty() {
            Ok(values)
        } else {
            Err(ParamError::Missing { workflow: self.name.clone(), names: missing })
        }
    }
}

fn known_params(nearest: Option<&str>, known: &[String]) -> String {
    match nearest {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None if known.is_empty() => "it has no parameters".into(),
        None => format!("its parameters are {}", listed(known)),
    }
}

fn listed(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
