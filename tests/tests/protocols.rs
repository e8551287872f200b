//! Every protocol through two sidecars: what goes in at one end comes out at the other, byte for byte where it can.
//!
//! | module | stories |
//! |---|---|
//! | `pair` | two pods with sidecars, and a raw connection to talk over |
//! | `http1` | versions, framing, heads, what is refused |
//! | `interim` | `Expect: 100-continue`, 103 |
//! | `logins` | NTLM: logins that belong to a connection |
//! | `bodies` | large ones, early answers, clients that leave |
//! | `headers` | hop-by-hop, the verified caller, request ids |
//! | `http2` | an HTTP/2 library at both ends: resets, 1xx, trailers |
//! | `switched` | WebSocket and CONNECT |
//! | `tcp` | redis, half-close, 100 MB, an application's own TLS |
//! | `server_first` | servers that greet: SMTP, MariaDB |
//! | `proxy_protocol` | applications that are told who connects |
//! | `outside` | destinations that are not in the mesh |

mod protocols {
    mod bodies;
    mod headers;
    mod http1;
    mod http2;
    mod interim;
    mod logins;
    mod outside;
    mod pair;
    mod proxy_protocol;
    mod server_first;
    mod switched;
    mod tcp;
}
