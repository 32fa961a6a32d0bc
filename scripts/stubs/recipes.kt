// Stubs, not the libraries: the shapes of openai-kotlin, supabase-kt, OkHttp, Okio and kotlinx-serialization that the recipes
// use, so that their blocks can be type-checked. Nothing here does anything. What compiles against it may still be wrong with
// the libraries themselves. Coroutines are the real ones, which come with the compiler.
@file:Suppress("UNUSED_PARAMETER")

package stubs

import kotlin.time.Duration
import kotlinx.coroutines.flow.Flow

private fun stub(): Nothing = throw NotImplementedError("a stub")

// com.aallam.openai:openai-client

class Timeout(val request: Duration? = null, val connect: Duration? = null, val socket: Duration? = null)

class OpenAIHost(val baseUrl: String, val queryParams: Map<String, String> = emptyMap())

class OpenAIConfig(
    val token: String,
    val timeout: Timeout = Timeout(),
    val organization: String? = null,
    val headers: Map<String, String> = emptyMap(),
    val host: OpenAIHost = OpenAIHost("https://api.openai.com/v1/"),
)

@JvmInline
value class ModelId(val id: String)

@JvmInline
value class ChatRole(val role: String) {
    companion object {
        val System = ChatRole("system")
        val User = ChatRole("user")
        val Assistant = ChatRole("assistant")
    }
}

class ChatMessage(val role: ChatRole, val content: String? = null, val name: String? = null)

class ChatCompletionRequest(
    val model: ModelId,
    val messages: List<ChatMessage>,
    val temperature: Double? = null,
    val maxTokens: Int? = null,
)

class ChatDelta(val role: ChatRole? = null, val content: String? = null)

class ChatChunk(val index: Int, val delta: ChatDelta? = null)

class ChatCompletionChunk(val id: String, val choices: List<ChatChunk>)

class OpenAI(config: OpenAIConfig) {
    fun chatCompletions(request: ChatCompletionRequest): Flow<ChatCompletionChunk> = stub()
}

// io.github.jan-tennert.supabase:auth-kt

class Auth {
    fun currentAccessTokenOrNull(): String? = stub()
}

class SupabaseClient {
    val auth: Auth get() = stub()
}

val supabase: SupabaseClient get() = stub()

// com.squareup.okhttp3:okhttp

class MediaType {
    companion object {
        fun String.toMediaType(): MediaType = stub()
    }
}

class RequestBody {
    companion object {
        fun String.toRequestBody(contentType: MediaType? = null): RequestBody = stub()
    }
}

class Request private constructor() {
    class Builder {
        fun url(url: String): Builder = this

        fun header(name: String, value: String): Builder = this

        fun post(body: RequestBody): Builder = this

        fun build(): Request = stub()
    }
}

class BufferedSource {
    fun readUtf8Line(): String? = stub()
}

class ResponseBody {
    fun source(): BufferedSource = stub()
}

class Response : java.io.Closeable {
    val isSuccessful: Boolean get() = stub()
    val code: Int get() = stub()
    val body: ResponseBody? get() = stub()

    fun header(name: String, defaultValue: String? = null): String? = stub()

    override fun close() = Unit
}

interface Call {
    fun execute(): Response
}

class OkHttpClient {
    fun newCall(request: Request): Call = stub()
}

val http: OkHttpClient get() = stub()

// org.jetbrains.kotlinx:kotlinx-serialization-json

sealed class JsonElement

class JsonPrimitive(val content: String) : JsonElement()

class JsonObject(content: Map<String, JsonElement>) : JsonElement(), Map<String, JsonElement> by content

class JsonArray(content: List<JsonElement>) : JsonElement(), List<JsonElement> by content

val JsonElement.jsonObject: JsonObject get() = stub()
val JsonElement.jsonArray: JsonArray get() = stub()
val JsonElement.jsonPrimitive: JsonPrimitive get() = stub()
val JsonPrimitive.contentOrNull: String? get() = stub()

class JsonObjectBuilder

class JsonArrayBuilder

fun JsonObjectBuilder.put(key: String, value: String?): JsonElement? = stub()

fun JsonObjectBuilder.put(key: String, value: Boolean?): JsonElement? = stub()

fun JsonObjectBuilder.putJsonArray(key: String, builderAction: JsonArrayBuilder.() -> Unit): JsonElement? = stub()

fun JsonArrayBuilder.addJsonObject(builderAction: JsonObjectBuilder.() -> Unit): Boolean = stub()

fun buildJsonObject(builderAction: JsonObjectBuilder.() -> Unit): JsonObject = stub()

object Json {
    fun parseToJsonElement(string: String): JsonElement = stub()
}
