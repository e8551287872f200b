use super::*;
use crate::{Kind, Spec};

const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: web}
spec:
  parentRefs: [{name: edge}]
  rules:
  - matches:
    - path: {type: PathPrefix, value: /a}
    backendRefs: [{name: cart, port: 80}]
";

fn read(text: &str) -> (Vec<Resource>, Vec<String>) {
    let (resources, errors) = parse(Path::new("r.yaml"), text);
    (resources, errors.iter().map(ToString::to_string).collect())
}

/// The mistakes of a text in which nothing is good.
fn mistakes(text: &str) -> Vec<String> {
    let (resources, errors) = read(text);
    assert!(resources.is_empty(), "{resources:?}");
    errors
}

fn one(text: &str) -> Resource {
    let (mut resources, errors) = read(text);
    assert_eq!(errors, Vec::<String>::new(), "{text}");
    assert_eq!(resources.len(), 1, "{text}");
    resources.remove(0)
}

#[test]
fn a_document_is_read_with_its_place() {
    let resource = one(&format!("# a comment\n\n---\n{ROUTE}"));
    assert_eq!(resource.id, ResourceId::new(Kind::HttpRoute, "web", "shop"));
    assert_eq!(resource.source.to_string(), "r.yaml:4");
    let service = one(
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}], type: ClusterIP}\n",
    );
    assert_eq!(service.id.to_string(), "Service default/a");
}

#[test]
fn a_bad_document_costs_no_other() {
    let text = format!(
        "{ROUTE}---\nkind: [\n---\napiVersion: v1\nkind: Nothing\n---\n{}",
        ROUTE.replace("shop", "two")
    );
    let (resources, errors) = read(&text);
    assert_eq!(resources.iter().map(|r| &*r.id.name).collect::<Vec<_>>(), ["shop", "two"]);
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors[0].starts_with("r.yaml:11:") && errors[0].ends_with("[resource-syntax]"), "{errors:?}");
    assert!(
        errors[1].starts_with("r.yaml:14:7: kind: there is no kind `Nothing` here; the kinds are Gateway,"),
        "{errors:?}"
    );
}

#[test]
fn all_mistakes_of_a_document_are_told_each_with_its_place() {
    let text = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: web}
spec:
  parentRef: [{name: edge}]
  rules:
  - matches:
    - path: {type: PathPrefix, value: /a}
    - path: {type: Exact, value: no-slash}
    - headers: [{name: a b, value: x}]
    backendRefs:
    - {name: cart, port: 80000}
    - {name: cart, port: \"80\"}
    filters:
    - type: RequestRedirect
      requestRedirect: {statusCode: 200, scheme: ftp}
    timeouts: {request: 5}
    timeouts: {}
";
    assert_eq!(
        mistakes(text),
        [
            "r.yaml:5:3: HTTPRoute web/shop: spec.parentRef: there is no such field; did you mean `parentRefs`? [resource-unknown-field]",
            "r.yaml:9:34: HTTPRoute web/shop: spec.rules[0].matches[1].path.value: `no-slash` is no path: it begins with `/` and has at most 1024 characters [resource-invalid-value]",
            "r.yaml:10:24: HTTPRoute web/shop: spec.rules[0].matches[2].headers[0].name: `a b` is no header name (RFC 9110 section 5.1) [resource-invalid-value]",
            "r.yaml:12:26: HTTPRoute web/shop: spec.rules[0].backendRefs[0].port: 80000 is no port: from 1 to 65535 [resource-invalid-value]",
            "r.yaml:13:26: HTTPRoute web/shop: spec.rules[0].backendRefs[1].port: this is a text, not a whole number; write it without quotes [resource-wrong-type]",
            "r.yaml:16:37: HTTPRoute web/shop: spec.rules[0].filters[0].requestRedirect.statusCode: 200 is no status of a redirect; use 301, 302, 303, 307 or 308 [resource-invalid-value]",
            "r.yaml:16:50: HTTPRoute web/shop: spec.rules[0].filters[0].requestRedirect.scheme: `ftp` is not one of `http`, `https`; did you mean `http`? [resource-invalid-value]",
            "r.yaml:17:25: HTTPRoute web/shop: spec.rules[0].timeouts.request: this is a number, not a text; write it in quotes [resource-wrong-type]",
            "r.yaml:18:5: HTTPRoute web/shop: spec.rules[0].timeouts: this field is already set above; keep one [resource-duplicate-field]",
        ]
    );
}

#[test]
fn what_only_follows_from_a_mistake_is_not_told() {
    // The name is wrong in type; that the name is then missing, and with it the whole reference, is no mistake of its own.
    let text = ROUTE.replace("{name: edge}", "{name: [edge]}");
    let told = mistakes(&text);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("spec.parentRefs[0].name: this is a list, not a text"), "{told:?}");
    let text = ROUTE.replace(
        "    backendRefs",
        "    filters: [{type: URLRewrite, urlRewrite: {hostname: \"a b\"}}]\n    backendRefs",
    );
    let told = mistakes(&text);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("filters[0].urlRewrite.hostname: `a b` is no host name"), "{told:?}");
}

#[test]
fn kinds_and_versions_are_told_with_the_right_one() {
    let text = |version: &str, kind: &str| {
        format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\nspec: {{}}\n")
    };
    for (version, kind, told) in [
        (
            "gateway.networking.k8s.io/v1",
            "HttpRoute",
            "kind: there is no kind `HttpRoute` here; did you mean `HTTPRoute`?",
        ),
        ("v1", "Deployment", "kind: there is no kind `Deployment` here; the kinds are Gateway, HTTPRoute"),
        (
            "gateway.networking.k8s.io/v1",
            "TCPRoute",
            "apiVersion: `gateway.networking.k8s.io/v1` has no TCPRoute that is read here; write `gateway.networking.k8s.io/v1alpha2`",
        ),
        (
            "networking.k8s.io/v1",
            "Gateway",
            "write `gateway.networking.k8s.io/v1` or `gateway.networking.k8s.io/v1beta1`",
        ),
        ("apps/v1", "Service", "write `v1`"),
        ("1", "Service", "apiVersion: this is a number, not a text; write it in quotes"),
    ] {
        let all = mistakes(&text(version, kind));
        assert!(all.len() == 1 && all[0].contains(told), "{all:?}");
    }
    assert_eq!(
        mistakes("{}\n"),
        [
            "r.yaml:1:1: apiVersion: this field is missing; every document names its apiVersion and its kind [resource-missing]",
            "r.yaml:1:1: kind: this field is missing; every document names its apiVersion and its kind [resource-missing]",
        ]
    );
    assert!(mistakes("- a\n")[0].contains("this is a list, not a resource"));
}

#[test]
fn metadata_is_checked_and_what_kubernetes_adds_is_passed_over() {
    let meta = |meta: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {meta}\ndata: {{a: b}}\nimmutable: true\n")
    };
    let good = one(&meta(
        "{name: a.b, uid: x, managedFields: [{a: 1}], creationTimestamp: 2026-01-31T12:00:00Z, labels: {a: b}}",
    ));
    assert_eq!(good.meta.labels.get("a").map(String::as_str), Some("b"));
    one(&meta("{name: a, creationTimestamp: null, annotations: }"));
    for (bad, told) in [
        ("{name: A}", "metadata.name: `A` is no name of a ConfigMap; use lower-case"),
        ("{name: a, namespace: a.b}", "metadata.namespace: `a.b` is no name of a namespace"),
        ("{name: a, creationTimestamp: yesterday}", "metadata.creationTimestamp: `yesterday` is no time"),
        (
            "{name: a, labels: {a.b/c: 1}}",
            "metadata.labels[\"a.b/c\"]: this is a number, not a text; write it in quotes",
        ),
        ("{namespace: a}", "metadata.name: this field is missing"),
    ] {
        let told_now = mistakes(&meta(bad));
        assert!(told_now.len() == 1 && told_now[0].contains(told), "{bad}: {told_now:?}");
    }
    assert_eq!(mistakes("apiVersion: v1\nkind: Service\nspec: {}\n").len(), 1);
    let namespace = one(
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: web, labels: {team: a}}\nspec: {finalizers: [kubernetes]}\nstatus: {phase: Active}\n",
    );
    assert_eq!(&*namespace.id.namespace, "");
    let told = mistakes(&format!("{ROUTE}sepc: 1\n"));
    assert!(told[0].contains("r.yaml:10:1") && told[0].contains("did you mean `spec`?"), "{told:?}");
}

#[test]
fn the_values_of_a_secret_are_decoded_and_never_told() {
    let text = |data: &str| format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\n{data}\n");
    let secret = one(&text("data: {a: aGVs\\\n, b: }\nstringData: {c: word, a: over}\ntype: Opaque")
        .replace("\\\n", "bG8="));
    let Spec::Secret(secret_of) = &secret.spec else { panic!("a secret") };
    let value = |name: &str| secret_of.data.get(name).map(Vec::as_slice);
    assert_eq!(
        (value("a"), value("b"), value("c")),
        (Some(&b"over"[..]), Some(&b""[..]), Some(&b"word"[..]))
    );
    assert!(!format!("{secret:?}").contains("word"));
    for (bad, told) in [
        ("data: {k: s3cret!}", "data.k: this is not base64"),
        ("stringData: {k: 424242}", "stringData.k: this is a number, not a text"),
        ("stringData: {k: [s3cret]}", "stringData.k: this is a list, not a text"),
        ("data: s3cret", "data: this is a text, not a mapping"),
        ("dat: {}", "dat: there is no such field; did you mean `data`?"),
        (
            "type: kubernetes.io/tls\nstringData: {tls.crt: s3cret}",
            "a Secret of type kubernetes.io/tls needs `tls.key`",
        ),
        (
            "type: kubernetes.io/tls\nstringData: {tls.crt: s3cret, tls.key: s3cret}",
            "there is no certificate as PEM in it",
        ),
    ] {
        let all = mistakes(&text(bad));
        assert!(all.len() == 1 && all[0].contains(told), "{all:?}");
        assert!(!all[0].contains("s3cret") && !all[0].contains("4242"), "{all:?}");
    }
    let map =
        one("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\nbinaryData: {b: AP8=}\ndata: {a: x}\n");
    let Spec::ConfigMap(map) = &map.spec else { panic!("a map") };
    assert_eq!(
        (map.bytes("b"), map.bytes("a"), map.bytes("c")),
        (Some(&[0, 255][..]), Some(&b"x"[..]), None)
    );
}

#[test]
fn the_hash_is_of_the_content() {
    let hash = |text: &str| one(text).hash;
    let base = hash(ROUTE);
    let json = r#"{"kind": "HTTPRoute", "apiVersion": "gateway.networking.k8s.io/v1beta1", "status": {"parents": []},
        "metadata": {"namespace": "web", "name": "shop", "resourceVersion": "7"},
        "spec": {"rules": [{"backendRefs": [{"port": 80, "name": "cart"}], "filters": null,
            "matches": [{"path": {"value": "/a", "type": "PathPrefix"}}]}], "parentRefs": [{"name": "edge"}]}}"#;
    assert_eq!(hash(json), base);
    assert_eq!(hash(&format!("# x\r\n{}", ROUTE.replace('\n', "\r\n"))), base);
    for (from, to) in [
        ("/a", "/b"),
        ("80", "81"),
        ("namespace: web", "namespace: other"),
        ("{name: shop", "{name: shop, labels: {a: b}"),
    ] {
        assert_ne!(hash(&ROUTE.replace(from, to)), base, "{to}");
    }
}

#[test]
fn words_are_texts_where_texts_are_wanted() {
    let told = |text: &str| read(text).1;
    let service =
        "apiVersion: v1\nkind: Service\nmetadata: {name: y, labels: {on: off}}\nspec: {ports: [{port: 1}]}\n";
    assert_eq!(&*one(service).id.name, "y");
    let cors = |word: &str| {
        ROUTE.replace(
            "    backendRefs",
            &format!("    filters: [{{type: CORS, cors: {{allowCredentials: {word}}}}}]\n    backendRefs"),
        )
    };
    for word in ["true", "yes", "On", "no"] {
        assert_eq!(told(&cors(word)), Vec::<String>::new(), "{word}");
    }
    assert!(told(&cors("maybe"))[0].contains("allowCredentials: this is a text, not true or false"));
}

#[test]
fn a_list_is_its_items_and_each_is_alone() {
    let item = |name: &str, port: &str| {
        format!(
            "- apiVersion: v1\n  kind: Service\n  metadata: {{name: {name}}}\n  spec: {{ports: [{{port: {port}}}]}}\n"
        )
    };
    let text = format!(
        "apiVersion: v1\nkind: List\nmetadata: {{}}\nitems:\n{}{}{}",
        item("a", "80"),
        item("b", "0"),
        item("c", "1")
    );
    let (resources, errors) = read(&text);
    assert_eq!(
        resources.iter().map(|r| (&*r.id.name, r.source.line)).collect::<Vec<_>>(),
        [("a", 5), ("c", 13)]
    );
    assert_eq!(
        errors,
        [
            "r.yaml:12:25: Service default/b: items[1].spec.ports[0].port: 0 is no port: from 1 to 65535 [resource-invalid-value]"
        ]
    );
    assert_eq!(
        locate(&text, &ResourceId::new(Kind::Service, "default", "c"), "spec.ports[0].port"),
        Some((16, 25))
    );
    assert!(read("apiVersion: v1\nkind: List\nitems: []\n").1.is_empty());
}

#[test]
fn a_field_is_found_again() {
    let text = format!("---\n{ROUTE}");
    let id = ResourceId::new(Kind::HttpRoute, "web", "shop");
    for (field, place) in [
        ("spec.rules[0].matches[0].path.value", Some((9, 39))),
        ("spec.rules[0].backendRefs[0]", Some((10, 19))),
        ("spec.rules[0].timeouts.request", Some((8, 5))),
        ("spec.rules[7]", Some((8, 5))),
        ("", Some((2, 1))),
        ("]broken[", Some((2, 1))),
    ] {
        assert_eq!(locate(&text, &id, field), place, "{field}");
    }
    assert_eq!(locate(&text, &ResourceId::new(Kind::HttpRoute, "web", "other"), "spec"), None);
}

#[test]
fn bombs_are_refused_in_bounded_time() {
    let mut bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (name, of) in "bcdefghij".chars().zip("abcdefghi".chars()) {
        bomb.push_str(&format!("{name}: &{name} [{}]\n", vec![format!("*{of}"); 9].join(", ")));
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let nested = (0..60).map(|i| format!("{}a:\n", " ".repeat(i))).collect::<String>();
    for text in [bomb.as_str(), &deep, &nested] {
        let (resources, errors) = read(text);
        assert!(resources.is_empty() && !errors.is_empty());
    }
    // Aliases within reason are read.
    one(&ROUTE.replace("[{name: edge}]", "&p [{name: edge}]"));
}

#[test]
fn a_file_has_a_limit() {
    let text = " ".repeat(usize::try_from(MAX_FILE).unwrap() + 1);
    assert!(mistakes(&text)[0].ends_with("[resource-too-large]"));
}

/// The corpus of the fuzz target, and every beginning of each of its files: half a file is what a reader meets.
#[test]
fn any_beginning_of_a_file_is_read_to_its_end() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/resources");
    let mut files = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        let octets = std::fs::read(entry.unwrap().path()).unwrap();
        let text = std::str::from_utf8(&octets).unwrap();
        files += 1;
        for end in (0..=text.len()).filter(|end| text.is_char_boundary(*end)) {
            let (text, lines) = (&text[..end], text[..end].split('\n').count());
            let (resources, errors) = parse(Path::new("x"), text);
            let places = errors.iter().map(|error| error.line).chain(resources.iter().map(|r| r.source.line));
            assert!(places.clone().all(|line| line >= 1 && line as usize <= lines), "{text:?}: {errors:?}");
        }
    }
    assert!(files >= 12, "the corpus is there");
}
