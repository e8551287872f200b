//! What Go's client (1.26) put on the wire when it was used as the kubelet uses it.

use super::*;

/// A probe's path, the target that was sent, and the credentials; no target where nothing was sent.
const PATHS: &[(&str, Option<&str>, Option<&str>)] = &[
    ("/", Some("/"), None),
    ("", Some("/"), None),
    ("/healthz", Some("/healthz"), None),
    ("healthz", Some("/healthz"), None),
    ("/a?x=1&y=2", Some("/a?x=1&y=2"), None),
    ("/a?", Some("/a?"), None),
    ("/a??", Some("/a??"), None),
    ("?x=1", Some("/?x=1"), None),
    ("/a b", Some("/a%20b"), None),
    ("/a?x=a b", Some("/a?x=a b"), None),
    ("/a\"b", Some("/a%22b"), None),
    ("/a<b>c", Some("/a%3Cb%3Ec"), None),
    ("/a`b", Some("/a%60b"), None),
    ("/a?x=\"<>`", Some("/a?x=\"<>`"), None),
    ("/a?x=é", Some("/a?x=é"), None),
    ("/é", Some("/%C3%A9"), None),
    ("/a%2Fb", Some("/a%2Fb"), None),
    ("/a%2Fb\"c", Some("/a/b%22c"), None),
    ("/a%2fb", Some("/a%2fb"), None),
    ("/%zz", Some("/%25zz"), None),
    ("/a%", Some("/a%25"), None),
    ("/a?x=%zz", Some("/a?x=%zz"), None),
    ("/a#b", Some("/a"), None),
    ("/a?x=1#b", Some("/a?x=1"), None),
    ("/a#%zz", Some("/a%23%25zz"), None),
    ("/a{b}|^c\\d", Some("/a%7Bb%7D%7C%5Ec%5Cd"), None),
    ("/a[b]", Some("/a[b]"), None),
    ("/!$&'()*+,;=:@-._~", Some("/!$&'()*+,;=:@-._~"), None),
    ("/a;b=c", Some("/a;b=c"), None),
    ("//evil/x", Some("/x"), None),
    ("//evil", Some("/"), None),
    ("///x", Some("///x"), None),
    ("http://other:99/x?y", Some("/x?y"), None),
    ("https://other/x", Some("/x"), None),
    ("http://user:p%40ss@other/x", Some("/x"), Some("dXNlcjpwQHNz")),
    ("//user@other/x", Some("/x"), Some("dXNlcjo=")),
    ("//[bad/x", Some("//%5Bbad/x"), None),
    ("//[::1]:80/x", Some("/x"), None),
    ("//a:b/x", Some("//a:b/x"), None),
    ("//a:80:81/x", Some("/x"), None),
    ("mailto:x", None, None),
    ("a:b", None, None),
    ("a:", Some("/"), None),
    ("a:/x", Some("/x"), None),
    ("a:?x", Some("/?x"), None),
    ("1:2", Some("/1:2"), None),
    (":x", Some("/:x"), None),
    ("a/b:c", Some("/a/b:c"), None),
    ("*", Some("/*"), None),
    ("/*", Some("/*"), None),
    ("/a\x7fb", Some("/a%7Fb"), None),
    ("/a\nb", Some("/a%0Ab"), None),
    ("/a\tb?c=\r", Some("/a%09b%3Fc=%0D"), None),
    ("/a?x=1\n", Some("/a%3Fx=1%0A"), None),
    ("/../x", Some("/../x"), None),
    ("/./x", Some("/./x"), None),
    ("/日本?q=日本", Some("/%E6%97%A5%E6%9C%AC?q=日本"), None),
    ("//us er@h/x", Some("//us%20er@h/x"), None),
    ("//h%41/x", Some("//h%2541/x"), None),
    ("//h%20/x", Some("//h%2520/x"), None),
    ("//h<x>/y", Some("/y"), None),
    ("/a%00b", Some("/a%00b"), None),
    ("/a?b#c#d", Some("/a?b"), None),
    ("/a%25b", Some("/a%25b"), None),
    ("/%E2%82%AC", Some("/%E2%82%AC"), None),
    ("/%e2%82%ac\"", Some("/%E2%82%AC%22"), None),
    ("/a+b", Some("/a+b"), None),
    ("HTTP:/x", Some("/x"), None),
    ("/x'y", Some("/x'y"), None),
    ("/'\"'", Some("/%27%22%27"), None),
    ("//user:a:b@h/x", Some("/x"), Some("dXNlcjphOmI=")),
    ("//@h/x", Some("/x"), Some("Og==")),
    ("//user:@h/x", Some("/x"), Some("dXNlcjo=")),
];

#[test]
fn a_path_is_sent_as_the_kubelet_sends_it() {
    use base64::Engine as _;
    let encode = |text: Vec<u8>| base64::engine::general_purpose::STANDARD.encode(text);
    for (path, target, credentials) in PATHS {
        let url = Url::of_probe("http", "10.0.0.1:8080", path);
        let sent = url.as_ref().map(|url| String::from_utf8(url.target()).unwrap());
        assert_eq!(sent.as_deref(), *target, "{path:?}");
        let user = url
            .and_then(|url| url.user)
            .map(|user| encode([user.name, b":".to_vec(), user.password].concat()));
        assert_eq!(user.as_deref(), *credentials, "{path:?}");
    }
}

/// No octet may make the request more than one line, whatever the definition says.
#[test]
fn a_target_is_one_line() {
    for first in 0..=127_u8 {
        for second in [first, b'%', b'\n', b'/', b'#', b'?', b':', b'@'] {
            for before in ["", "/", "//", "a:", "/?", "/#", "//u@h/"] {
                let path = format!("{before}{}{}", char::from(first), char::from(second));
                let Some(url) = Url::of_probe("http", "[::1]:80", &path) else { continue };
                let target = url.target();
                assert!(target.starts_with(b"/"), "{path:?}");
                assert!(!target.iter().any(u8::is_ascii_control), "{path:?}");
                assert!(!url.referer().iter().any(u8::is_ascii_control), "{path:?}");
            }
        }
    }
}

#[test]
fn dots_are_taken_out_as_go_does() {
    for (base, reference, path) in [
        ("", "a", "/a"),
        ("", "", ""),
        ("", ".", "/"),
        ("", ".//b", "//b"),
        ("", "./..", "/"),
        ("/a/b", "../..", "/"),
        ("/a/b", "../../../c", "/c"),
        ("/a/b/", ".", "/a/b/"),
        ("/a/b", "//c", "//c"),
        ("/a", "//.", "//"),
        ("/a", "//..", "/"),
        ("/a", "///../b", "//b"),
        ("/a", "/a/..//b", "/b"),
        ("/a", "/a//../b", "/a/b"),
    ] {
        let joined = without_dots(base.as_bytes(), reference.as_bytes());
        assert_eq!(String::from_utf8(joined).unwrap(), path, "{base} {reference}");
    }
}
