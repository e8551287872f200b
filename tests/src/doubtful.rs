//! Requests that two parsers could read in two ways, for stories about both sides of a sidecar and about a gateway.

/// Heads (after the request line and Host) that no two parsers agree on, with what they do not agree on: a hidden request behind them.
pub fn doubtful(hidden: &str) -> Vec<(&'static str, String)> {
    let length = hidden.len();
    let behind_chunks = format!("0\r\n\r\n{hidden}");
    let both = behind_chunks.len();
    let chunked = "transfer-encoding: chunked\r\n";
    vec![
        ("CL.TE", format!("content-length: {both}\r\n{chunked}\r\n{behind_chunks}")),
        ("TE.CL", format!("{chunked}content-length: 4\r\n\r\n{length:x}\r\n{hidden}\r\n0\r\n\r\n")),
        ("TE.TE", format!("{chunked}transfer-encoding: x\r\n\r\n{behind_chunks}")),
        ("TE twice", format!("{chunked}{chunked}\r\n{behind_chunks}")),
        ("TE list", format!("transfer-encoding: chunked, identity\r\n\r\n{behind_chunks}")),
        ("TE unknown", format!("transfer-encoding: xchunked\r\n\r\n{hidden}")),
        ("TE tab", format!("transfer-encoding:\tchunked\r\n\r\n{behind_chunks}")),
        ("TE vertical tab", format!("transfer-encoding: \x0bchunked\r\n\r\n{behind_chunks}")),
        ("TE quoted", format!("transfer-encoding: \"chunked\"\r\n\r\n{behind_chunks}")),
        ("TE space before colon", format!("transfer-encoding : chunked\r\n\r\n{behind_chunks}")),
        ("TE folded", format!("transfer-encoding:\r\n chunked\r\n\r\n{behind_chunks}")),
        ("TE after a fold", format!("x: y\r\n transfer-encoding: chunked\r\n\r\n{behind_chunks}")),
        ("TE after a bare LF", format!("x: y\ntransfer-encoding: chunked\r\n\r\n{behind_chunks}")),
        ("TE after a bare CR", format!("x: y\rtransfer-encoding: chunked\r\n\r\n{behind_chunks}")),
        ("CL twice, other", format!("content-length: 0\r\ncontent-length: {length}\r\n\r\n{hidden}")),
        ("CL twice, same", format!("content-length: {length}\r\ncontent-length: {length}\r\n\r\n{hidden}")),
        ("CL list", format!("content-length: {length}, {length}\r\n\r\n{hidden}")),
        ("CL plus", format!("content-length: +{length}\r\n\r\n{hidden}")),
        ("CL minus", format!("content-length: -1\r\n\r\n{hidden}")),
        ("CL hex", format!("content-length: 0x2b\r\n\r\n{hidden}")),
        ("CL space", format!("content-length: {length} 0\r\n\r\n{hidden}")),
        ("CL space before colon", format!("content-length : {length}\r\n\r\n{hidden}")),
        ("CL NUL", format!("content-length: {length}\0\r\n\r\n{hidden}")),
        ("CL too large", format!("content-length: 184467440737095516160\r\n\r\n{hidden}")),
        ("chunk too large", format!("{chunked}\r\n10000000000000000{length:x}\r\n{hidden}\r\n0\r\n\r\n")),
        ("chunk minus", format!("{chunked}\r\n-1\r\n{hidden}")),
        ("chunk 0x", format!("{chunked}\r\n0x{length:x}\r\n{hidden}\r\n0\r\n\r\n")),
        ("chunk extension LF", format!("{chunked}\r\n2;\n{hidden}\r\n0\r\n\r\n")),
        ("chunk without its end", format!("{chunked}\r\n2\r\nabXX0\r\n\r\n{hidden}")),
        ("trailer CL", format!("{chunked}\r\n0\r\ncontent-length: {length}\r\n\r\n{hidden}")),
        ("header without colon", format!("content-length {length}\r\n\r\n{hidden}")),
        ("first line folded", format!(" x: y\r\n\r\n{hidden}")),
        ("another host", format!("host: bank.shop\r\n\r\n{hidden}")),
        (
            "connection takes CL",
            format!("connection: content-length\r\ncontent-length: {length}\r\n\r\n{hidden}"),
        ),
        (
            "upgrade with a body",
            format!("connection: upgrade\r\nupgrade: websocket\r\ncontent-length: {length}\r\n\r\n{hidden}"),
        ),
        (
            "h2c upgrade",
            format!(
                "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n{hidden}"
            ),
        ),
    ]
}
