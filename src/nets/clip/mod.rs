//! CLIP (Radford et al. 2021, arXiv:2103.00020): the tokenizer, the text encoder that conditions the UNet and the vision
//! encoder that reads style images. Equal to transformers' `CLIPTokenizer`, `CLIPTextModel` and
//! `CLIPVisionModelWithProjection`; both together are a [`ClipPair`]. Reading and cropping pictures is `image`'s business.

mod encoder;
mod pair;
pub mod text;
pub mod tokenizer;
pub mod vision;
mod vocabulary;

pub use pair::ClipPair;
pub use text::{ClipText, ClipTextConfig};
pub use tokenizer::{Tokenizer, Tokens};
pub use vision::{ClipVision, ClipVisionConfig};
