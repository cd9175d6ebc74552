//! Backfills of one operator each: those of benches/all.toml, from a file.

use super::pipeline::{from_file, text_of};
use crate::Outcome;

/// One operator.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Question {
    Aggregate,
    Join,
    Funnel,
}

impl Question {
    pub(super) const ALL: [Self; 3] = [Self::Aggregate, Self::Join, Self::Funnel];

    /// As the programs under benches/peers take it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Aggregate => "aggregate",
            Self::Join => "join",
            Self::Funnel => "funnel",
        }
    }

    /// Its name in the deployment, and so in the lake.
    pub(super) fn operator(self) -> &'static str {
        match self {
            Self::Aggregate => "activity",
            Self::Join => "fills",
            Self::Funnel => "onboarding",
        }
    }

    /// It alone, from a file to a lake, with these settings of the engine.
    pub(super) fn deployment(self, engine: &str) -> Outcome<String> {
        alone(&from_file(&text_of("all.toml")?)?, self.operator(), engine)
    }
}

/// The deployment with one of its operators, which is all that its sink takes.
fn alone(deployment: &str, operator: &str, engine: &str) -> Outcome<String> {
    let mut text = String::new();
    for section in deployment.split("\n[") {
        let others = section.starts_with("operators.");
        if section.starts_with("sinks.") {
            let (sink, rest) = section.split_once("from = [").ok_or("a sink takes nothing")?;
            let (_, rest) = rest.split_once(']').ok_or("a list does not end")?;
            text.push_str(&format!("\n[{sink}from = [\"{operator}\"]{rest}"));
        } else if text.is_empty() {
            text = section.to_owned();
        } else if section.starts_with("engine]") {
            text.push_str(&format!("\n[engine]\n{engine}\n"));
        } else if !others || section.starts_with(&format!("operators.{operator}]")) {
            text.push_str(&format!("\n[{section}"));
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_operator_stands_alone() {
        for question in Question::ALL {
            let text = question.deployment("workers = 1").unwrap();
            let operators: Vec<&str> =
                text.lines().filter(|line| line.starts_with("[operators.")).collect();
            assert_eq!(operators, [format!("[operators.{}]", question.operator())]);
            assert_eq!(text.matches("[engine]\nworkers = 1\n").count(), 1, "{text}");
            assert!(!text.contains("checkpoint = ") && text.contains("${FILE}"), "{text}");
            assert!(text.contains(&format!("from = [\"{}\"]", question.operator())), "{text}");
        }
    }
}
