//! What a request may use or has used, counted. Pure.
//!
//! One table of names: the struct, the ledger's columns, the members of JSON and what an export carries are each made
//! from it. To add a quantity: a line here, a rate in `rates.rs`, a column in a migration of each store.

/// Makes a struct of counted fields, and its table of names.
macro_rules! named_fields {
    ($(#[$about:meta])* $type:ident of $field:ty { $($(#[$doc:meta])* $name:ident,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub struct $type {
            $($(#[$doc])* pub $name: $field,)*
        }

        impl $type {
            /// The names of the fields, in their order.
            pub const NAMES: [&'static str; Self::COUNT] = [$(stringify!($name)),*];
            /// How many fields there are.
            pub const COUNT: usize = [$(stringify!($name)),*].len();

            /// The fields, in the order of [`Self::NAMES`].
            #[must_use]
            pub const fn values(&self) -> [$field; Self::COUNT] {
                [$(self.$name),*]
            }

            /// From the fields, in the order of [`Self::NAMES`].
            #[must_use]
            pub const fn from_values([$($name),*]: [$field; Self::COUNT]) -> Self {
                Self { $($name),* }
            }
        }
    };
}
pub(super) use named_fields;

named_fields! {
    /// What a request used, as the upstream reported it or as it was estimated, or what it may use at most.
    ///
    /// The parts of `input_tokens` and of `output_tokens` that have a price of their own are no part of each other; what
    /// is left of either is plain text. `reasoning_tokens` are text that nobody sees, and have no price of their own.
    #[derive(serde::Serialize, utoipa::ToSchema)]
    Quantities of u64 {
        /// All prompt tokens: text, images and audio, those from a cache included.
        input_tokens,
        /// The part of `input_tokens` read from the provider's prompt cache, without images.
        cached_input_tokens,
        /// All generated tokens: text, images and audio, hidden reasoning included.
        output_tokens,
        /// The part of `output_tokens` that nobody sees.
        reasoning_tokens,
        /// The part of `input_tokens` written to the provider's prompt cache.
        cache_write_tokens,
        /// The part of `input_tokens` written to the provider's prompt cache for an hour.
        cache_write_1h_tokens,
        /// The part of `input_tokens` that was images, not from a cache.
        image_input_tokens,
        /// The part of `input_tokens` that was images read from the provider's prompt cache.
        cached_image_input_tokens,
        /// The part of `input_tokens` that was audio, not from a cache.
        audio_input_tokens,
        /// The part of `output_tokens` that was images.
        image_output_tokens,
        /// The part of `output_tokens` that was audio.
        audio_output_tokens,
        /// Seconds of audio, rounded up once a request.
        audio_seconds,
        /// Characters (Unicode code points) that were spoken.
        characters,
        /// Images that were made.
        images,
    }
}

/// What a request used.
pub type Usage = Quantities;

impl Quantities {
    /// Nothing.
    pub const NONE: Self = Self::from_values([0; Self::COUNT]);

    /// A prompt and nothing else.
    #[must_use]
    pub const fn of_input(input_tokens: u64) -> Self {
        Self {
            input_tokens,
            ..Self::NONE
        }
    }

    /// What limits in tokens count: input and output. Saturates.
    #[must_use]
    pub const fn tokens(&self) -> u64 {
        self.input_tokens.saturating_add(self.output_tokens)
    }
}
