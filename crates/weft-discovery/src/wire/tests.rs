use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as Question, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, NULL, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    min_ttl: Duration::ZERO,
    max_ttl: Duration::from_secs(3600),
    max_negative_ttl: Duration::from_secs(30),
};

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn ask(text: &str, rtype: RecordType) -> Message {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Question::query(name(text), rtype));
    message
}

fn edns(payload: u16, dnssec_ok: bool) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(payload).set_dnssec_ok(dnssec_ok);
    edns
}

fn query(message: &Message) -> Query {
    match parse_request(&message.to_vec().unwrap()) {
        Request::Query(query) => query,
        other => panic!("{other:?}"),
    }
}

fn rejected(packet: &[u8]) -> Message {
    match parse_request(packet) {
        Request::Reject(answer) => Message::from_vec(&answer).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn response(to: &Message, code: ResponseCode) -> Message {
    let mut message = Message::new(5, MessageType::Response, OpCode::Query);
    message.metadata.response_code = code;
    message.metadata.authoritative = true;
    message.queries = to.queries.clone();
    message
}

fn a(owner: &str, ttl: u32, last: u8) -> Record {
    Record::from_rdata(name(owner), ttl, RData::A(A([10, 0, 0, last].into())))
}

fn soa(ttl: u32, minimum: u32) -> Record {
    let data = SOA::new(name("ns.x."), name("root.x."), 1, 2, 3, 4, minimum);
    Record::from_rdata(name("x."), ttl, RData::SOA(data))
}

fn parse(answer: &Message, to: &Query) -> Result<Answer, Unusable> {
    parse_answer(&answer.to_vec().unwrap(), to, 5, true, LIMITS)
}

fn shown(answer: &Answer, query: &Query, age: u32) -> Message {
    let (packet, cut) = render(answer, query, |ttl| ttl.saturating_sub(age), query.udp_limit());
    let message = Message::from_vec(&packet).unwrap();
    assert_eq!(message.metadata.truncation, cut);
    message
}

#[test]
fn spelling_makes_no_different_key_but_flags_and_types_do() {
    let key = |message: &Message| query(message).key();
    let plain = ask("a.x.", RecordType::A);
    assert_eq!(key(&plain), key(&ask("A.X.", RecordType::A)));
    assert_ne!(key(&plain), key(&ask("a.x.", RecordType::AAAA)));
    let mut secure = ask("a.x.", RecordType::A);
    secure.set_edns(edns(1232, true));
    assert_ne!(key(&plain), key(&secure));
    let mut plain_edns = ask("a.x.", RecordType::A);
    plain_edns.set_edns(edns(4096, false));
    assert_eq!(key(&plain), key(&plain_edns));
    assert_eq!(key(&plain), Query::new(&"a.x".parse().unwrap(), TYPE_A).key());
}

#[test]
fn what_is_no_query_is_dropped() {
    for packet in
        [&[][..], &[0; 11], &response(&ask("a.x.", RecordType::A), ResponseCode::NoError).to_vec().unwrap()]
    {
        assert!(matches!(parse_request(packet), Request::Drop));
    }
}

#[test]
fn what_cannot_be_answered_is_refused_with_the_right_code() {
    let good = ask("a.x.", RecordType::A);
    let mut two = good.clone();
    two.add_query(Question::query(name("b.x."), RecordType::A));
    assert_eq!(rejected(&two.to_vec().unwrap()).metadata.response_code, ResponseCode::FormErr);

    let mut notify = good.clone();
    notify.metadata.op_code = OpCode::Notify;
    let answer = rejected(&notify.to_vec().unwrap());
    assert_eq!(
        (answer.metadata.response_code, answer.metadata.op_code),
        (ResponseCode::NotImp, OpCode::Notify)
    );
    assert_eq!(answer.metadata.id, 77);

    let transfer = rejected(&ask("x.", RecordType::AXFR).to_vec().unwrap());
    assert_eq!(transfer.metadata.response_code, ResponseCode::Refused);

    let mut newer = good.clone();
    newer.set_edns({
        let mut edns = edns(1232, false);
        edns.set_version(1);
        edns
    });
    let answer = rejected(&newer.to_vec().unwrap());
    assert_eq!(u16::from(answer.metadata.response_code), 16, "BADVERS");
    assert_eq!(answer.edns.unwrap().version(), 0);

    // The question cut short, and one that points at itself.
    let bytes = good.to_vec().unwrap();
    assert_eq!(rejected(&bytes[..14]).metadata.response_code, ResponseCode::FormErr);
    let mut looped = bytes[..12].to_vec();
    looped.extend([0xc0, 12, 0, 1, 0, 1]);
    assert_eq!(rejected(&looped).metadata.response_code, ResponseCode::FormErr);
    // Names a record that is not there.
    let mut short = bytes;
    short[11] = 1;
    assert_eq!(rejected(&short).metadata.response_code, ResponseCode::FormErr);
}

#[test]
fn the_question_upstream_keeps_spelling_and_flags() {
    let mut asked = ask("wWw.X.", RecordType::A);
    asked.metadata.checking_disabled = true;
    asked.set_edns(edns(4096, true));
    let sent = Message::from_vec(&query(&asked).for_upstream(9, true)).unwrap();
    assert_eq!(sent.metadata.id, 9);
    assert!(sent.metadata.recursion_desired && sent.metadata.checking_disabled);
    assert!(sent.queries[0].name.eq_case(&name("wWw.X.")));
    let opt = sent.edns.unwrap();
    assert_eq!((opt.max_payload(), opt.flags().dnssec_ok), (1232, true));
    assert!(Message::from_vec(&query(&asked).for_upstream(9, false)).unwrap().edns.is_none());
}

#[test]
fn an_answer_is_given_in_the_spelling_of_each_client_with_its_ttl_counted_down() {
    let first = ask("web.x.", RecordType::A);
    let mut upstream = response(&first, ResponseCode::NoError);
    upstream.add_answer(a("web.x.", 30, 1)).add_answer(a("web.x.", 20, 2));
    upstream.set_edns(edns(1232, false));
    let answer = parse(&upstream, &query(&first)).unwrap();
    assert_eq!((answer.kind, answer.ttl), (Kind::Positive, Duration::from_secs(20)));
    assert_eq!(&*answer.addresses, ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse::<IpAddr>().unwrap()));

    let mut second = ask("WEB.x.", RecordType::A);
    second.metadata.id = 99;
    let got = shown(&answer, &query(&second), 12);
    assert_eq!(got.metadata.id, 99);
    assert!(
        got.metadata.recursion_available && got.metadata.recursion_desired && !got.metadata.authoritative
    );
    assert!(got.queries[0].name.eq_case(&name("WEB.x.")));
    assert!(got.answers[0].name.eq_case(&name("WEB.x.")));
    assert_eq!(got.answers.iter().map(|record| record.ttl).collect::<Vec<_>>(), [18, 8]);
    // The client had no EDNS, so the answer has none.
    assert!(got.edns.is_none());

    second.set_edns(edns(1400, true));
    let got = shown(&answer, &query(&second), 0);
    assert!(got.edns.unwrap().flags().dnssec_ok);
}

#[test]
fn limits_bound_what_is_kept_and_what_is_told() {
    let asked = ask("web.x.", RecordType::A);
    let mut upstream = response(&asked, ResponseCode::NoError);
    upstream.add_answer(a("web.x.", 100_000, 1));
    let answer = parse(&upstream, &query(&asked)).unwrap();
    assert_eq!(answer.ttl, LIMITS.max_ttl);
    assert_eq!(shown(&answer, &query(&asked), 0).answers[0].ttl, 3600);

    upstream.answers[0].ttl = 0x8000_0001;
    assert_eq!(parse(&upstream, &query(&asked)).unwrap().ttl, Duration::ZERO);
    let packet = upstream.to_vec().unwrap();
    let limits = Limits { min_ttl: Duration::from_secs(5), ..LIMITS };
    let answer = parse_answer(&packet, &query(&asked), 5, true, limits).unwrap();
    assert_eq!(answer.ttl, Duration::from_secs(5));
}

#[test]
fn negative_answers_live_as_long_as_the_soa_says() {
    let asked = ask("web.x.", RecordType::A);
    for code in [ResponseCode::NXDomain, ResponseCode::NoError] {
        let mut upstream = response(&asked, code);
        let answer = parse(&upstream, &query(&asked)).unwrap();
        assert_eq!((answer.kind, answer.ttl), (Kind::Negative, Duration::ZERO), "no SOA");
        upstream.add_authority(soa(10, 7));
        let answer = parse(&upstream, &query(&asked)).unwrap();
        assert_eq!((answer.kind, answer.ttl), (Kind::Negative, Duration::from_secs(7)));
        let got = shown(&answer, &query(&asked), 3);
        assert_eq!((got.metadata.response_code, got.authorities[0].ttl), (code, 4));
        upstream.authorities[0] = soa(600, 600);
        assert_eq!(parse(&upstream, &query(&asked)).unwrap().ttl, LIMITS.max_negative_ttl);
    }
}

#[test]
fn a_cname_without_an_address_is_negative_and_bound_by_both_ttls() {
    let asked = ask("web.x.", RecordType::A);
    let mut upstream = response(&asked, ResponseCode::NoError);
    let cname = RData::CNAME(CNAME(name("other.x.")));
    upstream.add_answer(Record::from_rdata(name("web.x."), 4, cname)).add_authority(soa(10, 10));
    let answer = parse(&upstream, &query(&asked)).unwrap();
    assert_eq!((answer.kind, answer.ttl), (Kind::Negative, Duration::from_secs(4)));
    upstream.add_answer(a("other.x.", 60, 1));
    let answer = parse(&upstream, &query(&asked)).unwrap();
    assert_eq!((answer.kind, answer.ttl), (Kind::Positive, Duration::from_secs(4)));
}

#[test]
fn what_is_not_the_answer_is_not_taken() {
    let asked = ask("web.x.", RecordType::A);
    let to = query(&asked);
    let good = response(&asked, ResponseCode::NoError);
    let parse_as =
        |message: &Message, id| parse_answer(&message.to_vec().unwrap(), &to, id, true, LIMITS).err();
    assert_eq!(parse_as(&good, 5), None);
    assert_eq!(parse_as(&good, 6), Some(Unusable::Mismatch));
    for other in
        [ask("web.y.", RecordType::A), ask("web.x.", RecordType::AAAA), ask("wweb.x.", RecordType::A)]
    {
        assert_eq!(parse_as(&response(&other, ResponseCode::NoError), 5), Some(Unusable::Mismatch));
    }
    let mut query_back = good;
    query_back.metadata.message_type = MessageType::Query;
    assert_eq!(parse_as(&query_back, 5), Some(Unusable::Mismatch));
    let mut spelled = response(&ask("WEB.x.", RecordType::A), ResponseCode::NoError);
    assert_eq!(parse_as(&spelled, 5), None);
    spelled.metadata.truncation = true;
    assert_eq!(parse_as(&spelled, 5), Some(Unusable::Truncated));
    let formerr = response(&asked, ResponseCode::FormErr);
    assert_eq!(parse_as(&formerr, 5), Some(Unusable::Edns));
    let mut bare = formerr;
    bare.queries.clear();
    assert_eq!(parse_as(&bare, 5), Some(Unusable::Edns));
    let packet = bare.to_vec().unwrap();
    assert_eq!(parse_answer(&packet, &to, 5, false, LIMITS).unwrap().kind, Kind::Failure);
}

#[test]
fn types_differing_in_the_case_bit_are_different_questions() {
    // 0x41 and 0x61 are the same letter in two cases, but two types.
    let asked = ask("web.x.", RecordType::from(0x0041));
    let other = ask("web.x.", RecordType::from(0x0061));
    let got = parse(&response(&other, ResponseCode::NoError), &query(&asked));
    assert_eq!(got.err(), Some(Unusable::Mismatch));
}

#[test]
fn of_an_answer_that_does_not_fit_a_client_gets_what_fits() {
    let asked = ask("web.x.", RecordType::A);
    let mut upstream = response(&asked, ResponseCode::NoError);
    for last in 0..60 {
        upstream.add_answer(a("web.x.", 30, last));
    }
    upstream.add_authority(soa(1, 1));
    let answer = parse(&upstream, &query(&asked)).unwrap();
    let (packet, _) = render(&answer, &query(&asked), |ttl| ttl, 512);
    assert!((497..=512).contains(&packet.len()), "one more would have fitted: {}", packet.len());
    let got = shown(&answer, &query(&asked), 12);
    assert!(got.metadata.truncation && got.queries.len() == 1 && got.authorities.is_empty());
    assert_eq!(got.answers.len(), (512 - 12 - 11) / 16);
    assert!(got.answers.iter().all(|record| record.ttl == 18));
    let mut large = ask("web.x.", RecordType::A);
    large.set_edns(edns(1232, false));
    assert_eq!(shown(&answer, &query(&large), 0).answers.len(), 60);
    let mut small = ask("web.x.", RecordType::A);
    small.set_edns(edns(512, false));
    let got = shown(&answer, &query(&small), 0);
    assert!(got.metadata.truncation && got.edns.is_some());
    assert_eq!(got.answers.len(), (512 - 12 - 11 - OPT_LEN) / 16);
    let (whole, cut) = render(&answer, &query(&asked), |ttl| ttl, usize::from(u16::MAX));
    assert!(!cut && Message::from_vec(&whole).unwrap().answers.len() == 60);
}

#[test]
fn additional_records_are_left_out_without_a_word() {
    let asked = ask("web.x.", RecordType::A);
    let mut upstream = response(&asked, ResponseCode::NoError);
    upstream.add_answer(a("web.x.", 30, 1));
    for last in 0..60 {
        upstream.add_additional(a("ns.x.", 30, last));
    }
    let got = shown(&parse(&upstream, &query(&asked)).unwrap(), &query(&asked), 0);
    assert!(!got.metadata.truncation && got.answers.len() == 1 && got.additionals.len() > 20);
}

#[test]
fn an_answer_cut_by_the_server_is_taken_for_what_it_has() {
    let asked = ask("web.x.", RecordType::A);
    let mut upstream = response(&asked, ResponseCode::NoError);
    upstream.metadata.truncation = true;
    let to = query(&asked);
    let nothing = cut_answer(&upstream.to_vec().unwrap(), &to, true).unwrap();
    assert!(nothing.kind == Kind::Failure && nothing.is_cut_away());
    let (packet, _) = render(&nothing, &to, |ttl| ttl, 512);
    assert!(Message::from_vec(&packet).unwrap().metadata.truncation);
    assert!(!failure(&to, SERVFAIL).is_cut_away());
    upstream.add_answer(a("web.x.", 30, 1));
    let answer = cut_answer(&upstream.to_vec().unwrap(), &to, true).unwrap();
    assert_eq!((answer.kind, answer.ttl, answer.addresses.len()), (Kind::Positive, Duration::ZERO, 1));
    let (packet, _) = render(&answer, &to, |ttl| ttl, 512);
    let got = Message::from_vec(&packet).unwrap();
    assert!(got.metadata.truncation && got.answers.len() == 1);
}

#[test]
fn records_of_unknown_types_pass_byte_for_byte() {
    let asked = ask("web.x.", RecordType::from(65_280));
    let mut upstream = response(&asked, ResponseCode::NoError);
    let data = NULL::with(vec![1, 2, 3, 0xff]);
    let rdata = RData::Unknown { code: RecordType::from(65_280), rdata: data };
    upstream.add_answer(Record::from_rdata(name("web.x."), 30, rdata));
    let answer = parse(&upstream, &query(&asked)).unwrap();
    assert_eq!(answer.kind, Kind::Positive);
    assert_eq!(shown(&answer, &query(&asked), 0).answers[0].data, upstream.answers[0].data);
}

#[test]
fn only_names_of_services_are_learned() {
    let learned = |text: &str, rtype| query(&ask(text, rtype)).address_name().map(|name| name.to_string());
    assert_eq!(learned("Web.X.", RecordType::A).as_deref(), Some("web.x"));
    assert_eq!(learned("web.x.", RecordType::AAAA).as_deref(), Some("web.x"));
    assert_eq!(learned("web.x.", RecordType::SRV), None);
    assert_eq!(learned(".", RecordType::A), None);
    let mut dotted = ask("web.x.", RecordType::A);
    dotted.queries[0] = Question::query(Name::from_labels([&b"a.b"[..], b"x"]).unwrap(), RecordType::A);
    assert_eq!(query(&dotted).address_name(), None);
}

/// Bytes that often are nearly a message.
fn packet() -> impl Strategy<Value = Vec<u8>> {
    let mut message = ask("web.x.", RecordType::A);
    message.set_edns(edns(1232, true));
    let query = message.to_vec().unwrap();
    let mut upstream = response(&message, ResponseCode::NoError);
    upstream.add_answer(a("web.x.", 30, 1)).add_authority(soa(1, 2)).set_edns(edns(1232, false));
    let answer = upstream.to_vec().unwrap();
    let near = move |bytes: Vec<u8>| {
        prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6).prop_map(move |changes| {
            let mut bytes = bytes.clone();
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            bytes
        })
    };
    prop_oneof![prop::collection::vec(any::<u8>(), 0..600), near(query), near(answer)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_bytes_cause_a_panic_and_every_reply_is_a_reply(request in packet(), answer in packet()) {
        for reply in exercise(&request, &answer) {
            prop_assert!(reply.len() >= HEADER);
            prop_assert_eq!(&reply[..2], &request[..2]);
            prop_assert_eq!(reply[2] & 0x80, 0x80);
        }
    }

    /// Whatever is taken from upstream is given to a client as a message that a strict parser reads, if it was one.
    #[test]
    fn what_was_well_formed_stays_well_formed(answer in packet(), age in 0u32..100) {
        // A name that points into the header means something else when the header is ours.
        prop_assume!(!answer.windows(2).any(|pair| pair[0] == 0xc0 && pair[1] < 12));
        let asked = ask("web.x.", RecordType::A);
        let to = query(&asked);
        if let Ok(kept) = parse_answer(&answer, &to, 5, true, LIMITS)
            && let Ok(before) = Message::from_vec(&answer)
        {
            let got = shown(&kept, &to, age);
            if !got.metadata.truncation {
                prop_assert_eq!(got.answers.len(), before.answers.len());
                prop_assert_eq!(got.authorities.len(), before.authorities.len());
            }
        }
    }
}
