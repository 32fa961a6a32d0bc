#if canImport(FoundationModels)
    import Foundation
    import FoundationModels
    import Tollgate

    // For Apple's systems only (Xcode 27): read, and not compiled by us.

    /// A model of the server for `LanguageModelSession(model:)`. Text and guided generation; no tools, no pictures.
    @available(iOS 27, macOS 27, watchOS 27, visionOS 27, *)
    public struct TollgateLanguageModel: LanguageModel {
        let client: TollgateClient
        let name: String?

        /// - Parameter name: a name of the user's plan; the plan's first where it is nil
        public init(_ client: TollgateClient, model name: String? = nil) { (self.client, self.name) = (client, name) }

        public var capabilities: LanguageModelCapabilities { LanguageModelCapabilities(capabilities: [.guidedGeneration]) }
        public var executorConfiguration: TollgateExecutor.Configuration { .init() }
    }

    /// Asks the server, and passes its pieces on. A limit that is reached arrives as `TollgateError`.
    @available(iOS 27, macOS 27, watchOS 27, visionOS 27, *)
    public struct TollgateExecutor: LanguageModelExecutor {
        public struct Configuration: Hashable, Sendable {}

        public init(configuration _: Configuration) {}
        public func prewarm(model _: TollgateLanguageModel, transcript _: Transcript) {}

        public func respond(
            to request: LanguageModelExecutorGenerationRequest, model: TollgateLanguageModel,
            streamingInto channel: LanguageModelExecutorGenerationChannel
        ) async throws {
            let asked = request.generationOptions
            var options = ChatOptions(model: model.name, maxTokens: asked.maximumResponseTokens, temperature: asked.temperature)
            if let schema = request.schema {
                let text = try String(decoding: JSONEncoder().encode(schema), as: UTF8.self)
                options.fit(try JSON(parsing: text))
            }
            for try await piece in model.client.stream(request.transcript.compactMap(message), options) where !piece.delta.isEmpty {
                await channel.send(.response(action: .appendText(piece.delta)))
            }
        }

        private func message(_ entry: Transcript.Entry) -> Message? {
            switch entry {
            case .instructions(let told): .system(text(told.segments))
            case .prompt(let asked): .user(text(asked.segments))
            case .response(let answer): .assistant(text(answer.segments))
            default: nil
            }
        }

        private func text(_ segments: [Transcript.Segment]) -> String {
            segments.map { if case .text(let text) = $0 { text.content } else { "" } }.joined(separator: "\n")
        }
    }
#endif
