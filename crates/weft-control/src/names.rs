//! The names by which the parts find each other in a cluster: labels, annotations, containers, objects.
//!
//! They are an agreement (docs/design/kubernetes.md) between the injector, the controller, the CA, the manifests and the
//! checks, so they stand once. The chart's templates have them in YAML, and a test compares.

/// What all labels and annotations of Weft begin with.
pub(crate) const PREFIX: &str = "weft.dev/";
/// Label of namespaces and pods: asks for injection, or against it.
pub const INJECT_LABEL: &str = "weft.dev/inject";
/// Values of [`INJECT_LABEL`] that ask. The second is what users of other meshes write.
pub const ASKS: [&str; 2] = ["enabled", "true"];
/// Values of [`INJECT_LABEL`] that decline.
pub(crate) const DECLINES: [&str; 2] = ["disabled", "false"];
/// Annotation of pods: what the injector put in.
pub const INJECTED: &str = "weft.dev/injected";
/// Annotation of namespaces, pods and Services.
pub(crate) const MODE: &str = "weft.dev/mode";
/// Annotation of Services.
pub(crate) const MESH: &str = "weft.dev/mesh";
/// Annotation of a namespace's `weft-mesh`: what of it is held back, and why.
pub const HELD_BACK: &str = "weft.dev/held-back";
/// Label of headless twins: the Service that each is of.
pub(crate) const TWIN_OF: &str = "weft.dev/twin-of";
/// Label that says who removes an object.
pub(crate) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY`].
pub(crate) const WEFT: &str = "weft";

/// The service account that the CA's certificate names.
pub(crate) const CA_ACCOUNT: &str = "weft-ca";
/// The init container that writes the interception rules.
pub const INIT: &str = "weft-init";
/// The container of the sidecar.
pub const PROXY: &str = "weft-proxy";

/// Deployment, ServiceAccount and roles of `weft control`.
pub(crate) const CONTROL: &str = "weft-control";
/// The ConfigMap with the settings of `weft control`.
pub(crate) const CONTROL_CONFIG: &str = "weft-config";
/// The Secret with the issuer.
pub const CA_SECRET: &str = "weft-ca";
/// The trust bundle in that Secret.
pub(crate) const CA_BUNDLE: &str = "root.pem";
/// Service of the CA.
pub(crate) const CA_SERVICE: &str = "weft-ca";
/// What a token must be made for. One for the API server is no credential here, and ours is none there.
pub const AUDIENCE: &str = "weft-ca";
/// The `MutatingWebhookConfiguration`, and the Service before it.
pub const INJECTOR: &str = "weft-injector";
/// The ConfigMap of each participating namespace.
pub const MESH_CONFIG: &str = "weft-mesh";
/// The ConfigMap in which the controller remembers.
pub const STATE_CONFIG: &str = "weft-state";
/// The Lease of the controller that writes.
pub(crate) const LEASE: &str = "weft-controller";
