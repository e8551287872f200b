//! Identity from PEM files that something else keeps fresh: cert-manager's CSI driver, a script, a test.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use weft_core::Drain;

use crate::{FileWatch, IdentityError, Leaf, Publisher, TrustBundle};

/// Larger than any bundle or key; a wrong path to a large file must not fill the memory.
const MAX_FILE: u64 = 1 << 20;

/// Takes leaf, key and bundle from PEM files and follows their changes.
#[derive(Debug, Clone)]
pub struct FilesSource {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// The leaf's private key: PKCS #8, SEC1 or PKCS #1.
    pub key: PathBuf,
    /// The roots that peers are verified with.
    pub bundle: PathBuf,
}

impl FilesSource {
    /// Publishes what the files hold, now and after each change, until the drain has closed.
    ///
    /// The three files must agree: a leaf that the bundle does not vouch for would be refused by every peer. Where they
    /// do not, or one is bad, the last good generation stays and the log names the file.
    pub async fn run(self, publisher: Publisher, mut drain: Drain) {
        publisher.set_source(format!("files {}", self.certificate.display()));
        let mut watch = FileWatch::new([&self.certificate, &self.key, &self.bundle]);
        let mut last = Seen::default();
        loop {
            self.look(&publisher, &mut last);
            tokio::select! {
                () = drain.closed() => return,
                () = watch.changed() => {}
            }
        }
    }

    /// Reads the files once; publishes what is new and reports what is newly wrong.
    fn look(&self, publisher: &Publisher, last: &mut Seen) {
        match self.load().and_then(|(leaf, bundle)| publisher.publish(&leaf, &bundle)) {
            Ok(generation) => {
                if last.generation != Some(generation) || last.error.is_some() {
                    publisher.renewed(None);
                }
                *last = Seen { generation: Some(generation), error: None };
            }
            Err(error) => {
                let text = error.to_string();
                // The same failure again at the next poll is not news.
                if last.error.as_ref() != Some(&text) {
                    tracing::error!(%error, "identity files are not usable; the last good identity stays");
                    publisher.failed(&error);
                }
                last.error = Some(text);
            }
        }
    }

    fn load(&self) -> Result<(Leaf, TrustBundle), IdentityError> {
        let bundle = TrustBundle::from_file(&self.bundle)?;
        let leaf = Leaf::from_files(&self.certificate, &self.key)?;
        leaf.check(&bundle, SystemTime::now()).map_err(|error| IdentityError::File {
            path: self.certificate.clone(),
            reason: format!("peers would refuse it, by the bundle {}: {error}", self.bundle.display()),
        })?;
        Ok((leaf, bundle))
    }
}

#[derive(Default)]
struct Seen {
    generation: Option<u64>,
    error: Option<String>,
}

/// A whole file, with a bound. The files are small and local, so this blocks; it runs on the control thread.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let fail = |reason: String| IdentityError::File { path: path.to_owned(), reason };
    let file = std::fs::File::open(path).map_err(|error| fail(format!("cannot be opened: {error}")))?;
    let mut content = Vec::new();
    file.take(MAX_FILE + 1)
        .read_to_end(&mut content)
        .map_err(|error| fail(format!("cannot be read: {error}")))?;
    if content.len() as u64 > MAX_FILE {
        return Err(fail("is larger than 1 MiB".to_owned()));
    }
    Ok(content)
}
