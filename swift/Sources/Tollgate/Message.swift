import Foundation

/// A message of a conversation.
public struct Message: Codable, Sendable, Hashable {
    public var role: String
    public var content: [Part]

    public init(role: String, content: [Part]) {
        self.role = role
        self.content = content
    }

    public static func system(_ text: String) -> Message { Message(role: "system", content: [.text(text)]) }
    public static func user(_ text: String) -> Message { Message(role: "user", content: [.text(text)]) }
    public static func assistant(_ text: String) -> Message { Message(role: "assistant", content: [.text(text)]) }

    /// A question about a picture. A photo of a phone is best made smaller first: its tokens follow its size.
    ///
    /// - Parameter type: its media type, `image/jpeg` or `image/png`
    public static func user(_ text: String, picture: Data, type: String = "image/jpeg") -> Message {
        Message(role: "user", content: [.text(text), .picture("data:\(type);base64,\(picture.base64EncodedString())")])
    }

    /// What is said in it, without its pictures.
    public var text: String {
        content.map { if case .text(let text) = $0 { text } else { "" } }.joined()
    }

    /// A part of a message: text, or the address of a picture (`data:…`).
    public enum Part: Codable, Sendable, Hashable {
        case text(String)
        case picture(String)

        private struct Wire: Codable {
            struct Address: Codable { let url: String }
            let type: String
            var text: String?
            var imageURL: Address?

            enum CodingKeys: String, CodingKey {
                case type, text
                case imageURL = "image_url"
            }
        }

        public init(from decoder: any Decoder) throws {
            let wire = try Wire(from: decoder)
            self = wire.imageURL.map { .picture($0.url) } ?? .text(wire.text ?? "")
        }

        public func encode(to encoder: any Encoder) throws {
            switch self {
            case .text(let text): try Wire(type: "text", text: text).encode(to: encoder)
            case .picture(let url): try Wire(type: "image_url", imageURL: .init(url: url)).encode(to: encoder)
            }
        }
    }
}

/// What a chat takes beside its messages.
public struct ChatOptions: Sendable {
    /// A name of the user's plan; the plan's first where it is nil.
    public var model: String?
    /// The longest answer, in tokens. The server lowers it to the plan's.
    public var maxTokens: Int?
    public var temperature: Double?
    /// Which feature of the app this is, for the operator's usage by feature: `a-z`, `0-9`, `_`, `-`, at most 32.
    public var feature: String?
    /// Names the request, so that it is charged once however often it is sent. Made up where it is nil.
    public var idempotencyKey: String?
    /// Other fields of OpenAI's API, such as `["top_p": 0.5]`.
    public var more: [String: JSON]

    public init(
        model: String? = nil, maxTokens: Int? = nil, temperature: Double? = nil, feature: String? = nil, idempotencyKey: String? = nil,
        more: [String: JSON] = [:]
    ) {
        self.model = model
        self.maxTokens = maxTokens
        self.temperature = temperature
        self.feature = feature
        self.idempotencyKey = idempotencyKey
        self.more = more
    }

    /// Makes the answer fit a JSON Schema, in OpenAI's strict mode: all members required, and others forbidden.
    public mutating func fit(_ schema: JSON) {
        more["response_format"] = ["type": "json_schema", "json_schema": ["name": "answer", "strict": true, "schema": schema]]
    }

    func body(_ messages: [Message]) throws -> [String: JSON] {
        var body = more
        body["messages"] = try JSONDecoder().decode(JSON.self, from: JSONEncoder().encode(messages))
        body["model"] = model.map { .string($0) }
        body["max_tokens"] = maxTokens.map { .number(Double($0)) }
        body["temperature"] = temperature.map { .number($0) }
        return body
    }
}

/// A whole answer.
public struct Answer: Sendable, Hashable {
    public let text: String
    /// Why it ended, in OpenAI's words: `stop`, `length`, `tool_calls`, …
    public let finishReason: String?
    /// The id of the ledger's row: show it on your support screen.
    public let requestID: String
    /// The server's object, as it came.
    public let data: Data
}
