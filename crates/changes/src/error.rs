//! Why a subscription cannot be made. The texts are the reference's (`protocol.md 7.3`), so that what people find
//! about them stays true.

use crate::binding::{Binding, BindingError};
use crate::diagnosis::Finding;
use thiserror::Error;

/// Why a subscription cannot be made; `Display` is the `message` of the `system` event.
#[derive(Debug, Error)]
pub enum SubscribeError {
    /// An entry cannot be read. Final.
    #[error(transparent)]
    Malformed(#[from] BindingError),
    /// No published table has that name. Final: do what the finding says, then join again.
    #[error(
        "Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the given \
         connect parameters: {parameters}"
    )]
    NotPublished {
        /// The binding as the reference prints it.
        parameters: String,
        /// Why there is none.
        finding: Box<Finding>,
    },
    /// A table exists, but the filter, the selection or the role does not fit it. Final.
    #[error(
        "Unable to subscribe to changes with given parameters. An exception happened so please check your connect \
         parameters: {parameters}. Exception: {exception}"
    )]
    Rejected {
        /// The binding as the reference prints it.
        parameters: String,
        /// `ERROR <SQLSTATE> (<condition>) <message>`.
        exception: String,
    },
    /// Postgres could not be asked. Worth trying again.
    #[error("Unable to subscribe to changes: the database could not be asked ({0}). It will be tried again")]
    Database(#[source] sqlx::Error),
    /// The replication stream has ended because the server stops.
    #[error("Unable to subscribe to changes: the server is shutting down")]
    Stopped,
}

impl SubscribeError {
    /// Whether trying again without a change of the request or the database is pointless.
    #[must_use]
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::Database(_) | Self::Stopped)
    }

    /// What the text does not say: each cause in a sentence with its remedy.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        match self {
            Self::NotPublished { finding, .. } => vec![finding.warning()],
            _ => Vec::new(),
        }
    }

    pub(crate) fn not_published(binding: &Binding, finding: Finding) -> Self {
        Self::NotPublished {
            parameters: binding.to_string(),
            finding: Box::new(finding),
        }
    }

    /// A rejection in our own words, in the form of a raised exception.
    pub(crate) fn raised(binding: &Binding, message: &str) -> Self {
        Self::Rejected {
            parameters: binding.to_string(),
            exception: format!("ERROR P0001 (raise_exception) {message}"),
        }
    }

    pub(crate) fn unknown_role(binding: &Binding, role: &str) -> Self {
        Self::Rejected {
            parameters: binding.to_string(),
            exception: format!("ERROR 42704 (undefined_object) role \"{role}\" does not exist"),
        }
    }

    /// What Postgres answered while checking `binding`: its own word on the request, or trouble in between.
    pub(crate) fn from_postgres(binding: &Binding, error: sqlx::Error) -> Self {
        let exception = match &error {
            sqlx::Error::Database(answer) => {
                let code = answer.code().unwrap_or_default();
                // Class 22 (data), 23 (the checks of a domain) and 42 (syntax, names, rights) are about the request;
                // others are about the server.
                let is_about_request = ["22", "23", "42"].iter().any(|class| code.starts_with(class));
                is_about_request.then(|| {
                    let mut text = format!("ERROR {code} ({}) {}", condition_name(&code), answer.message());
                    let detail = answer
                        .try_downcast_ref::<sqlx::postgres::PgDatabaseError>()
                        .and_then(sqlx::postgres::PgDatabaseError::detail);
                    if let Some(detail) = detail {
                        text.push_str("\n\n");
                        text.push_str(detail);
                    }
                    text
                })
            }
            _ => None,
        };
        match exception {
            Some(exception) => Self::Rejected {
                parameters: binding.to_string(),
                exception,
            },
            None => Self::Database(error),
        }
    }
}

/// The condition name of an SQLSTATE that a cast, a pattern or a privilege test can raise.
fn condition_name(code: &str) -> &'static str {
    match code {
        "22000" => "data_exception",
        "22001" => "string_data_right_truncation",
        "22003" => "numeric_value_out_of_range",
        "22007" => "invalid_datetime_format",
        "22008" => "datetime_field_overflow",
        "22009" => "invalid_time_zone_displacement_value",
        "2200L" => "not_an_xml_document",
        "2200M" => "invalid_xml_document",
        "2200N" => "invalid_xml_content",
        "22012" => "division_by_zero",
        "22015" => "interval_field_overflow",
        "22018" => "invalid_character_value_for_cast",
        "22021" => "character_not_in_repertoire",
        "22023" => "invalid_parameter_value",
        "22025" => "invalid_escape_sequence",
        "2201B" => "invalid_regular_expression",
        "2202E" => "array_subscript_error",
        "22026" => "string_data_length_mismatch",
        "22P02" => "invalid_text_representation",
        "22P03" => "invalid_binary_representation",
        "22P05" => "untranslatable_character",
        "23502" => "not_null_violation",
        "23514" => "check_violation",
        "42501" => "insufficient_privilege",
        "42601" => "syntax_error",
        "42602" => "invalid_name",
        "42703" => "undefined_column",
        "42704" => "undefined_object",
        "42804" => "datatype_mismatch",
        "42846" => "cannot_coerce",
        "42883" => "undefined_function",
        "42P01" => "undefined_table",
        _ if code.starts_with("42") => "syntax_error_or_access_rule_violation",
        _ => "data_exception",
    }
}
