//! Lists, page by page.

use kube::Api;
use kube::api::ListParams;
use serde::de::DeserializeOwned;

/// Objects per answer of the API server.
const PAGE: u32 = 500;

/// All objects, of those that the field selector (or nothing) leaves.
pub(crate) async fn list<K>(api: Api<K>, fields: &str) -> Result<Vec<K>, kube::Error>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    sift(api, fields, Some).await
}

/// What `keep` makes of the objects that the field selector (or nothing) leaves. Only that is held, so a cluster may have
/// many more of them than are wanted.
pub(crate) async fn sift<K, T>(
    api: Api<K>,
    fields: &str,
    mut keep: impl FnMut(K) -> Option<T>,
) -> Result<Vec<T>, kube::Error>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut params = ListParams::default().limit(PAGE);
    if !fields.is_empty() {
        params = params.fields(fields);
    }
    let mut kept = Vec::new();
    loop {
        let page = api.list(&params).await?;
        kept.extend(page.items.into_iter().filter_map(&mut keep));
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => params = params.continue_token(&token),
            _ => return Ok(kept),
        }
    }
}

/// Whether this is a refusal of the API server, and not a failure.
pub(crate) fn forbidden(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403)
}
