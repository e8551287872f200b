use super::*;

fn with(trust: ForwardedTrust, forwarded: bool) -> Forwarded {
    let config = EdgeConfig { trust, forwarded, ..EdgeConfig::default() };
    let (client, local) = ("192.0.2.1:40000".parse().unwrap(), "10.0.0.1:443".parse().unwrap());
    Forwarded::new(client, local, true, &Telling::new(&config))
}

fn hops(trusted: usize) -> Forwarded {
    with(ForwardedTrust::Hops(trusted), false)
}

fn networks(trusted: &[&str]) -> Forwarded {
    with(ForwardedTrust::Networks(trusted.iter().map(|net| net.parse().unwrap()).collect()), false)
}

fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let value = |value: &str| HeaderValue::from_bytes(value.as_bytes()).unwrap();
    let mut headers = HeaderMap::new();
    for (name, text) in pairs {
        headers.append(HeaderName::from_static(name), value(text));
    }
    headers
}

fn sent() -> HeaderMap {
    map(&[
        ("x-forwarded-for", "203.0.113.7, 198.51.100.2"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "evil.example"),
        ("x_forwarded_for", "203.0.113.9"),
        ("forwarded", "for=203.0.113.7"),
        ("x-request-id", "mine"),
    ])
}

const SHOP: HeaderValue = HeaderValue::from_static("shop.example");

fn get<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter().map(|value| value.to_str().unwrap());
    let first = values.next();
    assert_eq!(values.next(), None, "{name} is there once");
    first
}

#[test]
fn a_client_is_not_believed() {
    for nobody in [hops(0), networks(&[]), networks(&["10.0.0.0/8"])] {
        let mut headers = sent();
        assert_eq!(nobody.apply(&mut headers, &SHOP), None);
        assert_eq!(get(&headers, "x-forwarded-for"), Some("192.0.2.1"));
        assert_eq!(get(&headers, "x-forwarded-proto"), Some("https"));
        assert_eq!(get(&headers, "x-forwarded-host"), Some("shop.example"));
        assert_eq!(get(&headers, "x-forwarded-port"), Some("443"));
        for gone in ["forwarded", "x-request-id", "x_forwarded_for"] {
            assert_eq!(get(&headers, gone), None, "{gone}");
        }
    }
}

#[test]
fn a_trusted_proxy_is_and_says_who_the_client_is() {
    let mut headers = sent();
    let client = hops(1).apply(&mut headers, &SHOP);
    assert_eq!(client, Some("198.51.100.2".parse().unwrap()));
    assert_eq!(get(&headers, "x-forwarded-for"), Some("198.51.100.2, 192.0.2.1"), "no further");
    assert_eq!(get(&headers, "x-forwarded-proto"), Some("http"));
    assert_eq!(get(&headers, "x-forwarded-host"), Some("evil.example"));
    assert_eq!(get(&headers, "x-request-id"), Some("mine"));
    assert_eq!((get(&headers, "x_forwarded_for"), get(&headers, "forwarded")), (None, None));
}

/// The client, and the list that goes on.
fn client(of: &Forwarded, told: &[(&'static str, &str)]) -> (Option<String>, String) {
    let mut headers = map(told);
    let client = of.apply(&mut headers, &SHOP);
    (client.map(|ip| ip.to_string()), get(&headers, "x-forwarded-for").unwrap().to_owned())
}

#[test]
fn the_rightmost_that_is_not_ours_is_the_client() {
    let ours = networks(&["192.0.2.0/24", "10.0.0.0/8", "2001:db8::/32"]);
    for (told, expected, list) in [
        ("203.0.113.7", Some("203.0.113.7"), "203.0.113.7, 192.0.2.1"),
        ("6.6.6.6, 203.0.113.7, 10.1.1.1", Some("203.0.113.7"), "203.0.113.7, 10.1.1.1, 192.0.2.1"),
        ("6.6.6.6, 10.6.6.6, 203.0.113.7", Some("203.0.113.7"), "203.0.113.7, 192.0.2.1"),
        ("::ffff:203.0.113.7,2001:db8::1", Some("203.0.113.7"), "203.0.113.7, 2001:db8::1, 192.0.2.1"),
        ("[2001:db9::7]:4711 , 10.1.1.1:80", Some("2001:db9::7"), "2001:db9::7, 10.1.1.1, 192.0.2.1"),
        // All of them are: a client of our own.
        ("10.2.2.2, 10.1.1.1", Some("10.2.2.2"), "10.2.2.2, 10.1.1.1, 192.0.2.1"),
        // What cannot be read is nobody, and so is whatever stands before it.
        ("10.9.9.9, nonsense, 10.1.1.1", Some("10.1.1.1"), "10.1.1.1, 192.0.2.1"),
        ("203.0.113.7, 10.1.1.1, <script>", None, "192.0.2.1"),
        ("203.0.113.7, unknown", None, "unknown, 192.0.2.1"),
        ("203.0.113.7, _hidden, 10.1.1.1", None, "_hidden, 10.1.1.1, 192.0.2.1"),
        (", 203.0.113.7,, ,", Some("203.0.113.7"), "203.0.113.7, 192.0.2.1"),
        ("", None, "192.0.2.1"),
    ] {
        let (client, went) = client(&ours, &[("x-forwarded-for", told)]);
        assert_eq!((client.as_deref(), went.as_str()), (expected, list), "{told}");
    }
    // Proxies may add a field of their own instead of to the one there is.
    let fields = [("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "203.0.113.7, 10.1.1.1")];
    assert_eq!(client(&ours, &fields).0.as_deref(), Some("203.0.113.7"));
}

#[test]
fn the_standard_header_is_read_where_there_is_no_other() {
    let ours = networks(&["192.0.2.0/24", "10.0.0.0/8"]);
    for (told, expected) in [
        ("for=203.0.113.7", Some("203.0.113.7")),
        ("For=\"[2001:db8:cafe::17]:4711\"", Some("2001:db8:cafe::17")),
        ("for=\"203.0.113.7:80\";proto=http;by=203.0.113.43, for=10.1.1.1", Some("203.0.113.7")),
        // A colon wants quotes.
        ("for=203.0.113.7:80, for=10.1.1.1", Some("10.1.1.1")),
        ("for=203.0.113.7 ; proto=https", Some("203.0.113.7")),
        ("for=203.0.113.7;ext=\"a,b;c\\\"d\\\\\", for=10.1.1.1", Some("203.0.113.7")),
        // A string that the client has left open takes nothing of what our proxy has added.
        ("for=\"10.6.6.6, for=203.0.113.7", Some("203.0.113.7")),
        ("for=\"10.6.6.6\\, for=203.0.113.7", Some("203.0.113.7")),
        // What is malformed is nobody.
        ("for=2001:db8::1", None),
        ("for=203.0.113.7;for=203.0.113.8", None),
        ("for=203.0.113.7 203.0.113.8", None),
        ("for=\"203.0.113.7", None),
        ("for=203.0.113.7;", None),
        ("for=203.0.113.700", None),
        ("for=203.0.113.7:http", None),
        ("203.0.113.7", None),
        ("for=unknown", None),
        ("for=_SEVKISEK", None),
        ("proto=https", None),
        ("for=10.9.9.9, for=\"_bad id\", for=10.1.1.1", Some("10.1.1.1")),
    ] {
        assert_eq!(client(&ours, &[("forwarded", told)]).0.as_deref(), expected, "{told}");
    }
    let both = [("forwarded", "for=6.6.6.6"), ("x-forwarded-for", "203.0.113.7")];
    assert_eq!(client(&ours, &both).0.as_deref(), Some("203.0.113.7"));
    let mut headers = map(&[("forwarded", "for=203.0.113.7;host=\"a.example:8443\";proto=http;by=_lb")]);
    ours.apply(&mut headers, &SHOP);
    assert_eq!(get(&headers, "x-forwarded-host"), Some("a.example:8443"));
    assert_eq!(get(&headers, "x-forwarded-proto"), Some("http"));
}

#[test]
fn what_makes_no_sense_is_replaced_although_it_comes_from_ours() {
    for (name, told, expected) in [
        ("x-forwarded-proto", "javascript", "https"),
        ("x-forwarded-proto", "http, javascript", "https"),
        ("x-forwarded-host", "a b", "shop.example"),
        ("x-forwarded-host", "user@evil.example", "shop.example"),
        ("x-forwarded-host", "a.example:8443", "a.example:8443"),
        ("x-forwarded-port", "0", "443"),
        ("x-forwarded-port", "65536", "443"),
        ("x-forwarded-port", "8443", "8443"),
    ] {
        let mut headers = map(&[(name, told)]);
        hops(1).apply(&mut headers, &SHOP);
        assert_eq!(get(&headers, name), Some(expected), "{name}: {told}");
    }
}

#[test]
fn of_several_words_the_one_counts_that_the_clients_proxy_has_told() {
    let (one, two, three) = ("203.0.113.7", "203.0.113.7, 10.1.1.1", "203.0.113.7, 10.1.1.1, 10.2.2.2");
    for (trusted, list, protos, expected) in [
        // The last is what the one trusted proxy has added; what the client has said before is the client's.
        (1, one, &["https, http"][..], "http"),
        (1, three, &["http, https, HTTP"], "HTTP"),
        (1, one, &["https", "http"], "http"),
        (1, one, &["https, http, ,"], "http"),
        // Each of two has added one: that of the farther, by which the client is connected.
        (2, two, &["http, https, http"], "https"),
        (2, three, &["http", "https, http"], "https"),
        // Where they replace it there is one.
        (2, two, &["http"], "http"),
        (3, three, &["http, https"], "http"),
        // As many count as the list has proxies, though more would be believed.
        (3, one, &["https, http"], "http"),
        (2, "nonsense", &["https, http"], "http"),
        // What makes no sense there does not make another word count.
        (1, one, &["http, gopher"], "https"),
        (1, one, &[" , "], "https"),
    ] {
        let told: Vec<_> = protos.iter().map(|proto| ("x-forwarded-proto", *proto)).collect();
        let mut headers = map(&[&[("x-forwarded-for", list)][..], &told].concat());
        hops(trusted).apply(&mut headers, &SHOP);
        assert_eq!(get(&headers, "x-forwarded-proto"), Some(expected), "{trusted} {list} {protos:?}");
    }
    let mut headers = map(&[
        ("x-forwarded-for", one),
        ("x-forwarded-host", "evil.example, a.example:8443"),
        ("x-forwarded-port", "1, 8443"),
    ]);
    hops(1).apply(&mut headers, &SHOP);
    assert_eq!(get(&headers, "x-forwarded-host"), Some("a.example:8443"));
    assert_eq!(get(&headers, "x-forwarded-port"), Some("8443"));
}

#[test]
fn backends_are_told_by_the_standard_header_as_well() {
    let also = |trust| with(trust, true);
    let mut headers = sent();
    also(ForwardedTrust::Hops(0)).apply(&mut headers, &HeaderValue::from_static("shop.example:8443"));
    let own = "for=192.0.2.1;host=\"shop.example:8443\";proto=https";
    assert_eq!(get(&headers, "forwarded"), Some(own));
    let mut headers = map(&[("x-forwarded-for", "2001:db8::7, _x"), ("x-forwarded-proto", "http")]);
    also(ForwardedTrust::Hops(2)).apply(&mut headers, &SHOP);
    let all = "for=\"[2001:db8::7]\";host=shop.example;proto=http, for=_x, for=192.0.2.1";
    assert_eq!(get(&headers, "forwarded"), Some(all));
    // And it is what we would read.
    let read: Vec<String> =
        chain::told(&map(&[("forwarded", all)])).map(|hop| hop.node.to_string()).collect();
    assert_eq!(read, ["192.0.2.1", "_x", "2001:db8::7"]);
}

/// Visible text of up to so many octets.
fn text(rng: &mut fastrand::Rng, most: usize) -> String {
    // Signs that mean something more often than by chance.
    const SIGNS: &[u8] = b"\"\\,;=[]:_ ";
    let length = rng.usize(..=most);
    let mut octet = || if rng.bool() { rng.u8(b' '..=b'~') } else { SIGNS[rng.usize(..SIGNS.len())] };
    (0..length).map(|_| char::from(octet())).collect()
}

#[test]
fn nothing_that_comes_makes_two_headers_or_a_longer_list() {
    let mut rng = fastrand::Rng::with_seed(7);
    for _ in 0..4000 {
        let (trusted, forwarded) = (rng.usize(..4), rng.bool());
        let mut headers = HeaderMap::new();
        for name in ["x-forwarded-for", "forwarded", "x-forwarded-proto", "x-forwarded-host"] {
            for _ in 0..rng.usize(..3) {
                let value = HeaderValue::from_str(&text(&mut rng, 40)).unwrap();
                headers.append(HeaderName::from_static(name), value);
            }
        }
        let told = format!("{headers:?}");
        with(ForwardedTrust::Hops(trusted), forwarded).apply(&mut headers, &SHOP);
        for name in ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port"] {
            assert_eq!(headers.get_all(name).iter().count(), 1, "{name}: {told}");
        }
        assert_eq!(headers.get_all("forwarded").iter().count(), usize::from(forwarded), "{told}");
        let list = get(&headers, "x-forwarded-for").unwrap();
        assert!(list.ends_with("192.0.2.1") && list.split(", ").count() <= trusted + 1, "{told}: {list}");
    }
}

/// Whatever stands before it: the last is the one that was added last.
#[test]
fn what_is_added_behind_is_read_whatever_stands_before() {
    let mut rng = fastrand::Rng::with_seed(7);
    for _ in 0..4000 {
        let both = format!("{}, for=\"[2001:db8::1]:80\";proto=https", text(&mut rng, 60));
        let first = chain::told(&map(&[("forwarded", &both)])).next();
        assert_eq!(first.map(|hop| hop.node), Some(Node::Address("2001:db8::1".parse().unwrap())), "{both}");
    }
}
