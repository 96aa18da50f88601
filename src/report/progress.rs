//! What is going on, told while it goes on.

use std::fmt;
use std::sync::Arc;

/// Somebody to tell what is going on; by default nobody.
#[derive(Clone, Default)]
pub struct Progress(Option<Arc<dyn Fn(&str) + Send + Sync>>);

impl Progress {
    /// Tells `listener`.
    pub fn to(listener: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(listener)))
    }

    /// Says what is being done now.
    pub fn say(&self, what: &str) {
        if let Some(listener) = &self.0 {
            listener(what);
        }
    }

    /// The same listener, who hears `stage` in front of everything.
    pub fn within(&self, stage: String) -> Self {
        match self.0.clone() {
            None => Self(None),
            Some(listener) => Self::to(move |what| listener(&format!("{stage}: {what}"))),
        }
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "told" } else { "silent" })
    }
}
