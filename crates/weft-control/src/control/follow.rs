//! Changes of `config.yaml` while it runs.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;
use weft_identity::FileWatch;

use super::config::ControlConfig;

/// Follows the file, for ever. A bad edit keeps the last good settings.
pub(super) async fn follow(file: &Path, settings: &watch::Sender<Arc<ControlConfig>>) {
    let mut watch = FileWatch::new([file]);
    let mut last = Said::default();
    loop {
        watch.changed().await;
        match ControlConfig::load(file) {
            Ok(new) => {
                let (new, waiting) = settings.borrow().follow(new);
                if last.is_news(waiting.join(", ")) {
                    tracing::warn!(fields = waiting.join(", "), "changed, and taken only by a restart");
                }
                settings.send_if_modified(|current| {
                    let differs = **current != new;
                    if differs {
                        *current = Arc::new(new);
                        tracing::info!(file = %file.display(), "settings changed");
                    }
                    differs
                });
            }
            Err(error) => {
                if last.is_news(error.to_string()) {
                    tracing::error!(%error, "settings are not usable; the last good ones stay");
                }
            }
        }
    }
}

/// The file is looked at every half minute, changed or not: the same is told once.
#[derive(Default)]
struct Said(String);

impl Said {
    fn is_news(&mut self, text: String) -> bool {
        let news = !text.is_empty() && self.0 != text;
        self.0 = text;
        news
    }
}
