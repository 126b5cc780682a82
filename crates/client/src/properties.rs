//! What holds for any input: what peers and callers write, and the state machines of one connection and call.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, Full, StreamBody};
use meshwork_balance::{NodeKey, Outcome};
use meshwork_core::{BoxError, Delivered, InstanceId, ServiceName, Watch};
use proptest::{collection::vec, prelude::*};
use tokio::{runtime::Builder, task::JoinSet, time::Instant};

use crate::{
    Channel, ClientConfig,
    confirm::{self, Answer},
    expiry::Expiry,
    http1,
    lines::{Lines, Place, Took, tests::narrow},
    shared::Kind,
    target::Target,
    upload::{MAX_KEPT, Upload},
    verdict::{self, Head},
};

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, cases, ..ProptestConfig::default() }
}

/// Anything that may stand in a header.
fn header() -> impl Strategy<Value = HeaderValue> {
    let text = prop_oneof![
        "[ -~]{0,30}",
        "(timeout=|close|Keep-Alive|max=)?[0-9]{0,20}(, ?|;)?(timeout=[0-9]{0,4}|CLOSE)?",
        "users/[a-z0-9./-]{0,12}",
        "[0-9]{0,10}[HMSmunx]?",
    ];
    let bytes = prop_oneof![3 => text.prop_map(String::into_bytes), 1 => vec(any::<u8>(), 0..30)];
    bytes.prop_filter_map("a header", |bytes| HeaderValue::from_bytes(&bytes).ok())
}

/// A call in the list: when it ends, and a look at whether it did.
type Listed<'a> = (Instant, Box<dyn FnMut() -> bool + 'a>);

fn headers(names: &'static [&'static str]) -> impl Strategy<Value = HeaderMap> {
    vec((prop::sample::select(names), header()), 0..6).prop_map(|all| {
        let named = |(name, value)| (HeaderName::from_static(name), value);
        all.into_iter().map(named).collect()
    })
}

proptest! {
    #![proptest_config(config(256))]

    // === what a peer writes ===

    #[test]
    fn an_http1_connection_is_never_kept_longer_than_either_side_says(
        answer in headers(&["connection", "keep-alive"]), ours in 0u64..100,
    ) {
        let ours = Duration::from_secs(ours);
        let kept = http1::kept_for(&answer, ours);
        prop_assert!(kept.is_none_or(|kept| kept <= ours));
        let says = |name: &str, word: &str| answer.get_all(name).iter().any(|value| {
            value.to_str().is_ok_and(|text| text.split(',').any(|part| part.trim().eq_ignore_ascii_case(word)))
        });
        if says("connection", "close") {
            prop_assert_eq!(kept, None);
        }
        for seconds in 0..4 {
            if answer.get_all("keep-alive").iter().count() == 1 && says("keep-alive", &format!("timeout={seconds}")) {
                let first = answer["keep-alive"].to_str().unwrap().split(',').find(|part| part.contains("timeout=")).unwrap();
                let is_first = first.trim() == format!("timeout={seconds}");
                prop_assert!(!is_first || kept.is_none_or(|kept| kept.as_secs() < seconds));
            }
        }
    }

    #[test]
    fn only_the_instance_itself_or_its_service_is_ever_believed(answer in headers(&["meshwork-is", "server"])) {
        let (service, id) = (ServiceName::new("users").unwrap(), InstanceId::new("users-1").unwrap());
        let said = |text: &str| answer.get_all("meshwork-is").iter().any(|value| value.as_bytes() == text.as_bytes());
        match confirm::judge(&answer, &service, &id) {
            Answer::Itself => prop_assert!(said("users/users-1")),
            Answer::Successor(other) => {
                let is_said = said(&format!("users/{other}"));
                prop_assert!(other != id && is_said && !said("users/users-1"));
            }
            Answer::Another => prop_assert!(!said("users/users-1")),
            Answer::Draining(_) => prop_assert!(false, "headers alone do not say that"),
        }
    }

    #[test]
    fn any_head_of_an_answer_is_judged(
        status in 100u16..1000, is_grpc: bool,
        fields in headers(&["grpc-status", "grpc-retry-pushback-ms", "retry-after", "meshwork-refused", "content-type"]),
    ) {
        let kind = if is_grpc { Kind::Grpc } else { Kind::Http };
        let mut answer = Response::builder().status(status).body(()).unwrap();
        *answer.headers_mut() = fields.clone();
        match verdict::of_head(kind, &answer) {
            // Nobody is believed who names no reason.
            Head::Refused(failure, _) => {
                prop_assert!(fields.contains_key("meshwork-refused"));
                prop_assert_eq!(failure.delivered, Delivered::No);
            }
            Head::Answer { verdict, unavailable } => {
                prop_assert!(verdict.is_some() || (is_grpc && status == 200));
                if unavailable.is_some() {
                    prop_assert!(matches!(verdict, Some(Outcome::Failure)), "{verdict:?}");
                }
            }
        }
        prop_assert_eq!(verdict::of_trailers(&fields).is_some(), fields.contains_key("grpc-status"));
    }

    // === what a caller writes ===

    #[test]
    fn any_uri_asked_for_becomes_one_of_the_node(
        asked in "(/|\\*|https?://[a-z]{1,8}(:[0-9]{1,4})?/?|[a-z]{0,6})?[!-~]{0,20}",
        endpoint in "(http|https|grpc|grpcs)://([a-z0-9_.-]{1,20}|\\[[0-9a-f:]{2,20}\\]):[1-9][0-9]{0,3}",
    ) {
        let (Ok(asked), Ok(endpoint)) = (asked.parse::<Uri>(), endpoint.parse()) else { return Ok(()) };
        let target = Target::new(&NodeKey::new([endpoint]));
        let uri = target.uri_of(&asked);
        prop_assert!(uri.scheme().is_some() && uri.authority().is_some() && uri.path_and_query().is_some());
        if let Some(authority) = asked.authority() {
            prop_assert_eq!(uri.authority(), Some(authority));
        }
    }

    #[test]
    fn any_request_is_begun_or_refused_with_a_type(
        fields in headers(&[
            "content-type", "grpc-timeout", "meshwork-timeout", "traceparent", "meshwork-priority", "meshwork-lane",
            "meshwork-attempt", "meshwork-to", "upgrade", "connection", "host", "te", "content-length",
        ]),
        method in prop::sample::select(vec![Method::GET, Method::POST, Method::CONNECT, Method::OPTIONS]),
        path in "[/*]?[!-~]{0,16}",
    ) {
        let Ok(uri) = path.parse::<Uri>() else { return Ok(()) };
        let mut request = Request::builder().method(method).uri(uri).body(Full::<Bytes>::default()).unwrap();
        *request.headers_mut() = fields;
        let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let service = ServiceName::new("users").unwrap();
            let mut channel = Channel::new(service, Watch::fixed(Arc::from([])), ClientConfig::default());
            let error = tower_service::Service::call(&mut channel, request).await.expect_err("there is nobody");
            assert!(error.to_string().starts_with("calling `users`: "), "{error}");
            assert_eq!(meshwork_core::Verdict::delivered(&error), Delivered::No);
        });
    }

    // === bodies on their way out ===

    #[test]
    fn a_body_is_sent_whole_and_in_order_however_it_comes(
        frames in vec(vec(any::<u8>(), 0..40), 0..90), late in prop::option::of(0usize..90), attempts in 1usize..4,
    ) {
        let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let all: Vec<u8> = frames.concat();
            // Before the frame `late` the body pauses once.
            let parts = frames.into_iter().enumerate();
            let body = StreamBody::new(futures_util::StreamExt::then(futures_util::stream::iter(parts), move |(nth, data)| async move {
                if late == Some(nth) {
                    tokio::task::yield_now().await;
                }
                Ok::<_, BoxError>(Frame::data(Bytes::from(data)))
            }));
            let upload = Upload::read_ahead(body).unwrap();
            assert!(!upload.is_kept() || all.len() <= MAX_KEPT);
            // Dropped unsent, it can be sent again.
            for _ in 1..attempts {
                drop(upload.attempt(false).await.expect("nothing of it was sent"));
            }
            let sent = upload.attempt(true).await.expect("nothing of it was sent");
            assert!(sent.size_hint().exact().is_none_or(|len| len == all.len() as u64));
            assert_eq!(sent.collect().await.unwrap().to_bytes(), all);
            assert_eq!(upload.attempt(true).await.is_some(), !upload.is_stream());
        });
    }

    // === limits in the list ===

    #[test]
    fn a_call_in_the_list_ends_exactly_when_its_limit_was_swept(
        steps in vec((0u8..4, 0usize..8, 0u64..20), 0..60),
    ) {
        let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (expiry, begun) = (Expiry::default(), Instant::now());
            let mut now = begun;
            let mut swept = begun;
            let mut calls: Vec<Option<Listed<'_>>> = (0..8).map(|_| None).collect();
            for (step, which, time) in steps {
                match step {
                    0 => {
                        let at = now + Duration::from_secs(time);
                        let mut call = expiry.within(at, std::future::pending::<()>());
                        assert!((&mut call).now_or_never().is_none(), "it waits for a sweep");
                        calls[which] = Some((at.max(swept), Box::new(move || (&mut call).now_or_never().is_some())));
                    }
                    1 => calls[which] = None,
                    2 => now += Duration::from_secs(time),
                    _ => {
                        expiry.sweep(now);
                        swept = now;
                        for call in &mut calls {
                            if call.as_mut().is_some_and(|(at, is_over)| { assert_eq!(is_over(), *at <= now); *at <= now }) {
                                *call = None;
                            }
                        }
                    }
                }
                assert_eq!(expiry.is_empty(), calls.iter().all(Option::is_none));
            }
        });
    }
}

proptest! {
    #![proptest_config(config(24))]

    // === the connections of a node ===

    #[test]
    fn lines_give_streams_as_long_as_there_are_any_and_never_more(
        steps in vec((0u8..6, 0usize..3), 0..60),
    ) {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut ends = JoinSet::new();
            let lines = Lines::new(3);
            let place = |nth: usize| if nth == 0 { Place::First } else { Place::Spare(nth - 1) };
            // Of each place: its connection, its open streams, and whether it takes calls.
            let mut model: [Option<(_, usize, bool)>; 3] = [None, None, None];
            for (step, nth) in steps {
                match step {
                    0 if model[nth].is_none() => {
                        let connection = narrow(&mut ends).await;
                        lines.store(place(nth), Some(Arc::clone(&connection)));
                        model[nth] = Some((connection, 0, true));
                    }
                    1 => {
                        lines.store(place(nth), None);
                        model[nth] = None;
                    }
                    2 => if let Some((connection, _, alive)) = &mut model[nth] {
                        connection.retire();
                        *alive = false;
                    },
                    3 => if let Some((connection, open @ 1.., _)) = &mut model[nth] {
                        connection.give_stream();
                        *open -= 1;
                    },
                    _ => {
                        let takes = model.iter_mut().flatten().find(|(_, open, alive)| *alive && *open < 2);
                        match (lines.take(None), takes) {
                            (Took::Stream { connection, last }, Some((expected, open, _))) => {
                                assert!(Arc::ptr_eq(&connection, expected));
                                *open += 1;
                                assert_eq!(last, *open == 2);
                            }
                            (Took::Full, None) => assert!(model.iter().flatten().any(|(_, _, alive)| *alive)),
                            (Took::Nothing, None) => assert!(!model.iter().flatten().any(|(_, _, alive)| *alive)),
                            _ => panic!("a stream where there is none, or none where there is one"),
                        }
                    }
                }
                let held = || model.iter().flatten();
                assert_eq!(lines.have_room(), held().any(|(_, open, alive)| *alive && *open < 2));
                assert_eq!(lines.are_alive(), held().any(|(_, _, alive)| *alive));
                assert_eq!((lines.count(), lines.is_empty()), (held().count(), held().count() == 0));
                assert_eq!(lines.open_streams(), held().map(|(_, open, _)| open).sum::<usize>());
                assert_eq!(lines.free(), (1..3).find(|nth| model[*nth].is_none()).map(|nth| nth - 1));
            }
        });
    }
}
