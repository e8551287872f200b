//! Protobuf messages with small buffers.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstDecoder, ProstEncoder};

/// What a buffer begins with; it grows with the message. Reports of a bundle's hash, almost all that is sent on a stream,
/// have 71 octets.
const BUFFER: usize = 256;
/// After so much is encoded it is handed on, although there may be more: tonic's own figure.
const HAND_ON: usize = 32 * 1024;

/// tonic's codec for protobuf, which begins with 8 KiB for each direction of a call. A CA holds one open stream for each
/// proxy, on which next to nothing is ever sent.
#[derive(Debug, Clone)]
pub(crate) struct LeanCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for LeanCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for LeanCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::new(BUFFER, HAND_ON))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(BufferSettings::new(BUFFER, HAND_ON))
    }
}
