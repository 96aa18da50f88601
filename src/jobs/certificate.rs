//! The certificate of a model: what it was made from, and what it loses at most. It is an entry of the model's metadata.

use prost::Message as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::onnx::Model;
use crate::onnx::model::CERTIFICATE;
use crate::onnx::proto::{ModelProto, StringStringEntryProto};
use crate::plan::Plan;
use crate::report::{BeforeAfter, Report, SearchReport};
use crate::texts::hexadecimal;
use crate::verify::Pairs;

/// Version of the certificate.
const VERSION: u32 = 1;

/// Probability of an error in comparing other samples with the certified bound.
const DOUBT: f64 = 1e-3;

/// What a model was made from, and what it loses at most.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Certificate {
    version: u32,
    /// Version of the program that made the model.
    paredown: String,
    /// SHA-256 of the original, encoded without a certificate.
    original: String,
    /// SHA-256 of the model itself, encoded without its certificate.
    result: String,
    /// The plan that was carried out.
    pub(super) plan: Plan,
    /// Figures of the model before and after.
    model: BeforeAfter,
    /// The search with its bound.
    pub(super) search: Option<SearchReport>,
}

impl Certificate {
    /// The certificate of a job, for no file yet.
    pub(super) fn of(plan: &Plan, report: &Report) -> Self {
        Self {
            version: VERSION,
            paredown: env!("CARGO_PKG_VERSION").to_owned(),
            original: String::new(),
            result: String::new(),
            plan: plan.clone(),
            model: report.model,
            search: report.search.clone(),
        }
    }

    /// `result`, which was made from `original`, with this certificate.
    pub(super) fn attached(mut self, original: &Model, result: &Model) -> Model {
        (self.original, self.result) = (hash(&original.proto), hash(&result.proto));
        let mut proto = result.proto.clone();
        let value = serde_json::to_string(&self).unwrap_or_default();
        let entry = StringStringEntryProto { key: Some(CERTIFICATE.to_owned()), value: Some(value) };
        proto.metadata_props.push(entry);
        result.restated(proto)
    }

    /// The certificate of a model, if it has one.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input) if it cannot be read.
    pub(super) fn read(model: &ModelProto) -> Result<Option<Self>> {
        let Some(entry) = model.metadata_props.iter().find(|entry| entry.key() == CERTIFICATE) else { return Ok(None) };
        let damaged = |why: String| Error::input(format!("the certificate in its metadata cannot be read: {why}"));
        let read: Self = serde_json::from_str(entry.value()).map_err(|e| damaged(e.to_string()))?;
        if read.version == VERSION { Ok(Some(read)) } else { Err(damaged(format!("version {}", read.version))) }
    }

    /// Checks that the certificate is about these two models.
    ///
    /// # Errors
    /// [`Proof`](crate::ErrorKind::Proof) if it is not.
    pub(super) fn check(&self, original: &Model, result: &Model) -> Result<()> {
        if hash(&original.proto) != self.original {
            return Err(Error::proof("its certificate is about a result of another original"));
        }
        if hash(&result.proto) != self.result {
            return Err(Error::proof("was changed after its certificate was made"));
        }
        Ok(())
    }

    /// What other samples say about the certified bound.
    ///
    /// # Errors
    /// [`Proof`](crate::ErrorKind::Proof) if the loss on them is certainly larger.
    pub(super) fn compared(&self, pairs: Option<Pairs>) -> Result<String> {
        let Some(bound) = self.search.as_ref().and_then(|search| search.bound) else {
            return Ok("the certificate is about these two models; it bounds no loss".to_owned());
        };
        let head = format!("the certificate is about these two models: {bound}");
        let same_kind = pairs.filter(|pairs| pairs.gained.is_some() == bound.pairs.gained.is_some());
        let Some(pairs) = same_kind else { return Ok(format!("{head}; give such samples as `data` to measure again")) };
        let least = pairs.at_least(DOUBT);
        let found = format!("{:.2} points are lost on these {} samples", 100.0 * pairs.share(), pairs.samples);
        if least > bound.at_most {
            return Err(Error::proof(format!(
                "{head}, but {found}: they are not samples like those that it was made on"
            )));
        }
        Ok(format!("{head}; {found}"))
    }
}

/// SHA-256 of a model without its certificate.
fn hash(model: &ModelProto) -> String {
    let mut model = model.clone();
    model.metadata_props.retain(|entry| entry.key() != CERTIFICATE);
    hexadecimal(&Sha256::digest(model.encode_to_vec()))
}
