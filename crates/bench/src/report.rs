//! What a run prints: a table for people, JSON for programs.

use serde_json::{Map, Value};

/// Named figures in the order they were added. Units are in the names.
#[derive(Default)]
pub(crate) struct Report {
    title: String,
    figures: Vec<(String, Value)>,
    /// Broken promises; a run with any fails.
    faults: Vec<String>,
}

impl Report {
    pub(crate) fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            ..Self::default()
        }
    }

    pub(crate) fn add(&mut self, name: &str, figure: impl Into<Value>) {
        self.figures.push((name.to_owned(), figure.into()));
    }

    /// Adds a figure rounded to hundredths, if there is one.
    pub(crate) fn add_rounded(&mut self, name: &str, figure: Option<f64>) {
        if let Some(figure) = figure {
            self.add(name, (figure * 100.0).round() / 100.0);
        }
    }

    pub(crate) fn fault(&mut self, fault: String) {
        self.faults.push(fault);
    }

    /// Prints the report.
    ///
    /// # Errors
    /// If the run broke a promise, so that scripts notice.
    pub(crate) fn print(self, as_json: bool) -> anyhow::Result<()> {
        if as_json {
            let mut object: Map<String, Value> = self.figures.into_iter().collect();
            object.insert("scenario".into(), self.title.clone().into());
            object.insert("faults".into(), self.faults.clone().into());
            println!("{}", Value::Object(object));
        } else {
            println!("{}", self.title);
            let width = self
                .figures
                .iter()
                .map(|(name, _)| name.len())
                .max()
                .unwrap_or_default();
            for (name, figure) in &self.figures {
                println!("  {name:width$}  {figure}");
            }
            for fault in &self.faults {
                println!("  FAULT: {fault}");
            }
        }
        anyhow::ensure!(
            self.faults.is_empty(),
            "the run found {} faults",
            self.faults.len()
        );
        Ok(())
    }
}
